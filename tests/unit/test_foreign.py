"""Files of other exporters (tests/data/foreign, made by tests/foreign/make.py): read, decoded, converted, rejected."""

from __future__ import annotations

import itertools
import json
import pickle
import re
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import onnx_bytes as ob
from tests.cli.test_cli import run
from tests.foreign.play import difference, in_windows, settings, to_torch
from tests.helpers import DATA
from vocos_onnx import VocosONNX, once
from vocos_onnx.model.onnx_file import read_model
from vocos_onnx.spans import windows

FOREIGN = DATA / "foreign"
FILES = sorted(path for path in FOREIGN.rglob("*.onnx") if path.parent.name != "refused")
STATIC = [path for path in FILES if "static" in path.name or path.name == "chattts.onnx"]
pytestmark = pytest.mark.filterwarnings("ignore:this model takes 64 frames:UserWarning")


def opened(path: Path, **options: Any) -> VocosONNX:
    if path.parent.name in ("bsc", "wetdog", "wavenext"):
        pytest.importorskip("yaml")
    return VocosONNX(path, **{**settings(path, n_fft=64, hop_length=16), **options})


def golden(path: Path) -> dict[str, np.ndarray]:
    with np.load(path.with_suffix(".npz")) as file:
        return dict(file)


def copied(path: Path, tmp_path: Path) -> Path:
    """A copy of the file alone, without the files beside it."""
    return Path(shutil.copy(path, tmp_path / path.name))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_decodes_as_torch(path: Path) -> None:
    vocos = opened(path)
    assert to_torch(vocos, golden(path)) <= 5e-6
    assert vocos.network.reach > 0, "a Vocos is a chain of convolutions"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_spans_and_streams_are_the_whole(path: Path) -> None:
    spans, streams = in_windows(opened(path))
    assert spans <= 1e-6
    assert streams <= 1e-6


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_chunking_lookahead_and_end(path: Path) -> None:
    vocos = opened(path)
    reach, rng = vocos.network.reach, np.random.default_rng(1)
    for frames in (1, 2, reach, reach + 1, 2 * reach, 2 * reach + 1, 63, 64, 65, 150):
        mels = rng.normal(-1, 2, (8, frames)).astype(np.float32)
        whole = vocos.decode(mels, check=False)
        for size in (1, 5, 64, 200):
            stream = vocos.stream(check=False)
            parts = [stream.push(mels[:, i : i + size]) for i in range(0, frames, size)]
            emitted = sum(map(len, parts))
            assert emitted == max(0, frames * vocos.hop_length - stream.delay_samples)
            joined = np.concatenate([*parts, stream.flush()])
            assert joined.shape == whole.shape
            assert not whole.size or difference(joined, whole) <= 1e-6, (frames, size)
        stream = vocos.stream(lookahead=2, check=False)
        early = np.concatenate([*(stream.push(mels[:, i : i + 5]) for i in range(0, frames, 5)), stream.flush()])
        assert early.shape == whole.shape


def test_lists_and_threads_are_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for name in ("vocos_24khz.onnx", "chattts.onnx", "f5-triton.onnx"):
        items = [rng.normal(-1, 2, (8, frames)).astype(np.float32) for frames in (70, 3, 300, 64, 120)]
        alone = [opened(FOREIGN / name, threads=1).decode(item, check=False) for item in items]
        for threads in (1, 2, 3):
            vocos = opened(FOREIGN / name, threads=threads)
            for found, expected in zip(vocos.decode(items, check=False), alone, strict=True):
                assert difference(found, expected) <= 1e-6
        batch = np.stack([items[0], items[4][:, :70]])
        found = vocos.decode(batch, check=False)
        assert difference(found[1], vocos.decode(batch[1], check=False)) <= 1e-6


def test_a_pool_of_streams() -> None:
    rng = np.random.default_rng(3)
    for name in ("vocos_24khz.onnx", "chattts.onnx", "wavenext/mel_spec_22khz_wavenext.onnx"):
        vocos = opened(FOREIGN / name)
        items = [rng.normal(-1, 2, (8, frames)).astype(np.float32) for frames in (40, 90, 64, 7, 130)]
        expected = [np.concatenate([*vocos.decode_stream([item], check=False)]) for item in items]
        with vocos.stream_pool() as pool, ThreadPoolExecutor(5) as threads:

            def play(item: np.ndarray, pool: Any = pool) -> np.ndarray:
                with pool.open(check=False) as stream:
                    chunks = [stream.push(item[:, i : i + 6]) for i in range(0, item.shape[1], 6)]
                    return np.concatenate([*chunks, stream.flush()])

            for found, whole in zip(threads.map(play, items), expected, strict=True):
                assert difference(found, whole) <= 1e-5


@pytest.mark.parametrize("path", STATIC, ids=lambda path: path.name)
def test_a_fixed_length_warns_once_of_shorter_input(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "_warned", set())
    vocos, mels = opened(path), np.random.default_rng(4).normal(-1, 2, (8, 100)).astype(np.float32)
    assert vocos.network.size == 64
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vocos.decode(mels, check=False)
        vocos.decode(mels[:, :64], check=False)
    with pytest.warns(UserWarning, match=r"takes 64 frames at once: 20 frames are filled up .* of the last 9 of them"):
        vocos.decode(mels[:, :20], check=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vocos.decode(mels[:, :20], check=False)


def test_windows_are_exact_by_construction() -> None:
    """Every frame is in one window and at least ``reach`` frames from its ends, except where the sequence ends."""
    for length, reach, more in itertools.product((1, 5, 10, 11, 40, 97), (1, 3, 5), (1, 2, 9)):
        size = 2 * reach + more
        for at in (None, size):
            done = 0
            for window in windows(0, length, 0, length, reach, at):
                assert window.start == done < window.stop
                assert 0 <= window.first <= window.start
                assert window.stop <= window.last <= length
                assert window.first == 0 or window.start - window.first >= reach
                assert window.last == length or window.last - window.stop >= reach
                if at is not None:
                    assert window.last - window.first == min(size, length)
                done = window.stop
            assert done == length


# What a file says, and errors about it


def test_missing_settings_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("t.npy", np.zeros((8, 5), np.float32))
    path = copied(FOREIGN / "transposed.onnx", tmp_path)
    with pytest.raises(
        ValueError, match=r"its sample_rate, hop_length, padding, .*pass sample_rate=, hop_length=, pad"
    ):
        VocosONNX(path)
    with pytest.raises(
        ValueError, match=r"does not say its padding.*: pass padding='same' or 'center', or .* --padding same\|center$"
    ):
        VocosONNX(path, sample_rate=8000, hop_length=16)
    for arguments in (["info", str(path)], ["decode", "t.npy", "o.wav", "--model", str(path)]):
        assert run(*arguments) == 2
        assert re.search(
            rf"does not say its sample_rate, .*: convert it once with: vocos-onnx convert {path} -o MODEL\.onnx "
            r"--sample-rate N --hop-length N --padding same\|center\n$",
            capsys.readouterr().err,
        )
    assert run("convert", str(path), "-o", str(tmp_path / "o.onnx"), "--sample-rate", "8000") == 2
    assert capsys.readouterr().err.endswith("beside it does: give --hop-length N --padding same|center\n")
    path = copied(FOREIGN / "istft.onnx", tmp_path)
    with pytest.raises(ValueError, match=r"does not say its sample_rate, .* beside it does: pass sample_rate="):
        VocosONNX(path)


def test_settings_out_of_range_or_contradictory(tmp_path: Path) -> None:
    path = FOREIGN / "vocos_24khz.onnx"
    for given, message in (
        ({"sample_rate": 22050}, r"sample_rate is 22050 by the arguments, and 24000 by its metadata: leave it out"),
        ({"n_fft": 128}, r"n_fft is 128 by the arguments, and 64 by the outputs of the graph: leave it out"),
        ({"hop_length": 0}, r"hop_length is 0, expected 1 to"),
        ({"sample_rate": "x"}, r"sample_rate is 'x', expected an integer"),
        ({"padding": "valid"}, r"padding is 'valid', expected one of same, center"),
    ):
        with pytest.raises(ValueError, match=message):
            VocosONNX(path, **given)
    with pytest.raises(ValueError, match=r"sample_rate, padding given for .*, which is a model of vocos-onnx"):
        VocosONNX(DATA / "mel.onnx", sample_rate=24000, padding="same")
    with pytest.raises(ValueError, match=r"hop_length is said to be 20, and its audio has 16: leave it out"):
        opened(FOREIGN / "istft.onnx", hop_length=20)


def test_padding_may_be_said_otherwise() -> None:
    """sherpa-onnx requires center=1 in all files; with padding ``same`` the audio is only hop/2 longer at each end."""
    path = FOREIGN / "vocos-22khz-univ.onnx"
    center, same = VocosONNX(path), VocosONNX(path, padding="same")
    mels = golden(path)["mels_31"][0]
    long, short = same.decode(mels, check=False), center.decode(mels, check=False)
    assert (len(long), len(short)) == (31 * 16, 30 * 16)
    assert difference(long[8:-8], short) <= 1e-6


def test_the_config_beside_it_says_how_mels_are_made(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    vocos = VocosONNX(FOREIGN / "bsc" / "mel_spec_22khz_univ.onnx")
    assert (vocos.config.padding, vocos.sample_rate) == ("same", 22050)
    assert vocos.config.mel is not None
    audio = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    assert vocos.features(audio, 22050).shape == (8, 250)
    assert vocos(audio, 22050).shape == (4000,)
    unknown = VocosONNX(FOREIGN / "vocos_24khz.onnx")
    ways = (
        lambda: unknown.features(audio, 24000),
        lambda: unknown(audio, 24000),
        lambda: [*unknown.resynth_stream([audio], 24000)],
    )
    for way in ways:
        with pytest.raises(ValueError, match=r"does not say how its mels are made of audio, .*config\.yaml"):
            way()
    for name, text, message in (
        ("config.yaml", "not: [a, config", r"config\.yaml: .* is not readable YAML"),
        ("config.json", "{}", r"config\.json: the config lacks backbone\.class_path"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        path = copied(FOREIGN / "transposed.onnx", folder)
        (folder / name).write_text(text)
        with pytest.raises(ValueError, match=f"does not say its sample_rate, .*{message}"):
            VocosONNX(path)


def test_a_config_of_another_model(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    path = copied(FOREIGN / "bsc" / "mel_spec_22khz_univ.onnx", tmp_path)
    config = (FOREIGN / "bsc" / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(
        config.replace("n_mels: 8", "n_mels: 9").replace("channels: 8", "channels: 9")
    )
    with pytest.raises(ValueError, match=r"takes mels of 8 bands, and config\.yaml says 9"):
        VocosONNX(path)
    (tmp_path / "config.yaml").write_text(config.replace("n_fft: 64", "n_fft: 128"))
    with pytest.raises(ValueError, match=r"n_fft is 64 by the outputs of the graph, and 128 by config\.yaml"):
        VocosONNX(path)


def test_metadata_that_are_refused(tmp_path: Path) -> None:
    data = (FOREIGN / "vocos_24khz.onnx").read_bytes()
    for old, new, message in (
        (b"\x0a\x06center\x12\x011", b"\x0a\x06center\x12\x010", r"in the metadata, center is 0, expected 1"),
        (b"\x12\x04hann", b"\x12\x04hamm", r"window_type is 'hamm', expected 'hann'"),
        (b"\x12\x0524000", b"\x12\x052400O", r"sample_rate is '2400O', expected a whole number"),
    ):
        assert data.count(old) == 1, old
        path = tmp_path / "altered.onnx"
        path.write_bytes(data.replace(old, new))
        with pytest.raises(ValueError, match=message):
            VocosONNX(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("f5-decode", r"takes denoised \(float\), ref_signal_len \(int64\), where a Vocos takes mels alone"),
        ("wavtokenizer-decode", r"takes codes \(int64\), where a Vocos takes mels alone"),
        ("neucodec-decode", r"takes codes \(int32\), where a Vocos takes mels alone"),
        ("external", r"takes its weights from other files"),
        ("quantized", r"'DynamicQuantizeLinear', .*onnxruntime has quantised it: take the file in float32"),
    ],
)
def test_refused_by_name(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VocosONNX(FOREIGN / "refused" / f"{name}.onnx")


# Used like any other model


def test_info_pickles_and_names() -> None:
    vocos = opened(FOREIGN / "chattts.onnx")
    again = pickle.loads(pickle.dumps(vocos))
    mels = golden(FOREIGN / "chattts.onnx")["mels_64"]
    assert np.array_equal(again.decode(mels, check=False), vocos.decode(mels, check=False))
    assert "chattts.onnx: mels, 24000 Hz, float32" in repr(vocos)
    assert vocos.network.foreign == "input.1 -> 96, 97, 98"  # torch's names for unnamed values


def test_info_describes_it(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(FOREIGN / "vocos_24khz.onnx")
    assert run("info", path) == 0
    printed = capsys.readouterr().out
    assert "graph: of another exporter, mels -> mag, x, y" in printed
    assert "hop_length: 16" in printed
    assert run("info", path, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["foreign_graph"], facts["frames_at_once"], facts["reach"]) == ("mels -> mag, x, y", None, 9)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_converted_it_needs_no_settings(path: Path, tmp_path: Path) -> None:
    vocos, ours = opened(path), tmp_path / "ours.onnx"
    options = [f"--{key.replace('_', '-')}={value}" for key, value in settings(path, n_fft=64, hop_length=16).items()]
    assert run("convert", str(path), "-o", str(ours), *options) == 0
    converted = VocosONNX(ours)
    assert converted.network.foreign == ""
    assert (converted.config, converted.network.size) == (vocos.config, vocos.network.size)
    mels = next(value for name, value in golden(path).items() if name.startswith("mels_"))
    assert np.array_equal(converted.decode(mels, check=False), vocos.decode(mels, check=False))
    assert all(weight.ctypes.data % 64 == 0 for weight in read_model(ours).weights.values())


def test_convert_refuses_options_that_are_not_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, ours = str(FOREIGN / "vocos_24khz.onnx"), str(tmp_path / "ours.onnx")
    for options, message in (
        (["--int8"], "--int8 or --fp16 is for checkpoints"),
        (["--istft", "graph"], "--istft graph is for checkpoints"),
        (["--format", "sherpa"], "--format sherpa is for checkpoints"),
        (["--revision", "main"], "--revision is for checkpoints"),
    ):
        assert run("convert", path, "-o", ours, *options) == 2
        assert message in capsys.readouterr().err
    assert run("convert", str(DATA / "mel.onnx"), "-o", ours) == 2
    assert "is a model of vocos-onnx already" in capsys.readouterr().err
    assert run("convert", str(tmp_path), "-o", ours, "--padding", "same") == 2
    assert "--padding is for another exporter's .onnx file" in capsys.readouterr().err
    assert not Path(ours).exists()


# Graphs that no Vocos exporter writes, but that pass the check


def exotic(path: Path, nodes: list[bytes], frames: int | str = "time", bands: int | str = 8) -> Path:
    """A file with one convolution of 7 taps to "c", then nodes from "c" to "d"; mag, x and y all equal "d"."""
    rng = np.random.default_rng(0)
    weights = [
        ob.tensor("w", rng.normal(0, 0.2, (33, 8, 7)).astype(np.float32)),
        ob.tensor("one", np.array([1])),
        ob.tensor("end", np.array([np.iinfo(np.int64).max])),
        ob.tensor("start", np.array([0])),
        ob.tensor("time", np.array([2])),
    ]
    nodes = [ob.node("Conv", ["mels", "w"], ["c"], pads=[3, 3], kernel_shape=[7]), *nodes]
    outputs = ["mag", "x", "y"]
    nodes += [ob.node("Identity", ["d"], [name]) for name in outputs]
    shape: list[int | str] = ["batch", 33, frames]
    graph = ob.graph(
        nodes, weights, [ob.value("mels", ["batch", bands, frames])], [ob.value(o, shape) for o in outputs]
    )
    path.write_bytes(ob.model(graph, "vocos", opsets=[("", 17)], key="model_type"))
    return path


SIZES: dict[str, Any] = {"sample_rate": 8000, "hop_length": 16, "padding": "center"}
PLAIN = [ob.node("Identity", ["c"], ["d"])]
MEAN = [ob.node("ReduceMean", ["c"], ["m"], axes=[2], keepdims=1), ob.node("Sub", ["c", "m"], ["d"])]
ROLL = [
    ob.node("Slice", ["c", "one", "end", "time"], ["late"]),
    ob.node("Slice", ["c", "start", "one", "time"], ["early"]),
    ob.node("Concat", ["late", "early"], ["d"], axis=2),
]


def test_a_fixed_length_that_is_shorter_than_the_network_sees(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"takes 6 frames at once, fewer than its network sees, 7: export it with"):
        VocosONNX(exotic(tmp_path / "six.onnx", PLAIN, frames=6), **SIZES)
    assert VocosONNX(exotic(tmp_path / "seven.onnx", PLAIN, frames=7), **SIZES).network.reach == 3


@pytest.mark.parametrize("nodes", [MEAN, ROLL])
def test_a_network_that_sees_all_frames_is_not_cut(tmp_path: Path, nodes: list[bytes]) -> None:
    """Such a network is recognised by its operators or by measurement, however short its convolutions."""
    vocos = VocosONNX(exotic(tmp_path / "all.onnx", nodes), **SIZES)
    assert (vocos.network.reach, vocos.delay) == (0, 0)
    with pytest.raises(ValueError, match=r"cannot be streamed, since how far its network sees is not known"):
        vocos.stream()
    mels = np.random.default_rng(1).normal(-1, 1, (8, 3000)).astype(np.float32)
    whole = vocos.network.spectrum(mels[None], None)
    cut = next(iter(vocos._plan.work(vocos._reader.read(mels, None, "kbt", check=False).items).batches))
    assert [(span.start, span.stop) for span in cut] == [(0, 3000)]
    assert np.isfinite(whole).all()
    fixed = VocosONNX(exotic(tmp_path / "fixed.onnx", nodes, frames=40), **SIZES)
    assert fixed.decode(mels[:, :40], check=False).shape == (39 * 16,)
    with pytest.raises(
        ValueError, match=r"has 41 frames, and this model takes 40 at once: how far it sees is not known"
    ):
        fixed.decode(mels[:, :41], check=False)


def test_bands_that_nobody_states(tmp_path: Path) -> None:
    path = exotic(tmp_path / "bands.onnx", PLAIN, bands="bands")
    with pytest.raises(ValueError, match=r"bands"):
        VocosONNX(path, **SIZES)
