"""Token files name their codec, and models of other codecs reject them."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import pathlib
import pickle
import subprocess
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.helpers import DATA
from vocos_onnx import EncodecONNX, Tokens, VocosONNX, load_audio, load_tokens, save_tokens
from vocos_onnx.cli import main
from vocos_onnx.dsp.quantizer import quantize
from vocos_onnx.io.tokens import read_token_file

MODEL, ENCODER = str(DATA / "encodec.onnx"), str(DATA / "encoder.onnx")
CODES = np.random.default_rng(0).integers(1024, size=(2, 30))
OTHER: dict[str, Any] = {"codec": "some_codec", "codebooks_sha256": "ab" * 32}


@pytest.fixture(scope="module")
def encoder() -> EncodecONNX:
    return EncodecONNX(ENCODER)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    soundfile.write("speech.wav", np.random.default_rng(1).normal(0, 0.1, 12_000), 24_000)
    return tmp_path


def run(*args: object) -> int:
    return main([str(arg) for arg in args])


@pytest.mark.parametrize(("bandwidth", "count"), [("0.75", 1), ("1.5", 2), ("3", 4)])
def test_encode_names_the_codec(folder: Path, encoder: EncodecONNX, bandwidth: str, count: int) -> None:
    assert run("encode", "speech.wav", "out.npz", "--encoder", ENCODER, "--bandwidth", bandwidth) == 0
    with np.load("out.npz") as archive:
        assert set(archive.files) == {"tokens", "samples", "sample_rate", "codec", "codebooks_sha256"}
        assert archive["tokens"].shape == (count, 38)
        assert (archive["samples"], archive["sample_rate"]) == (12_000, 24_000)
        assert archive["codec"] == "encodec_24khz"
        table = encoder.codebooks[:count].astype("<f4").tobytes()
        assert archive["codebooks_sha256"] == hashlib.sha256(table).hexdigest()


def test_what_encode_wrote_is_decoded_without_a_word(
    folder: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    assert run("encode", "speech.wav", "out.npz", "--encoder", ENCODER, "--bandwidth", "1.5") == 0
    assert run("decode", "out.npz", "out.wav", "--model", MODEL) == 0
    assert capsys.readouterr().err == ""
    vocos, tokens = VocosONNX(MODEL), load_tokens("out.npz")
    assert (tokens.samples, tokens.sample_rate, tokens.codec) == (12_000, 24_000, "encodec_24khz")
    assert np.array_equal(vocos.decode(tokens), vocos.decode(tokens.codes))
    assert np.array_equal(np.asarray(tokens), tokens.codes)
    assert not recwarn.list


def test_the_bundled_codec(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("encode", "speech.wav", "own.npz", "--bandwidth", "3") == 0
    assert run("decode", "own.npz", "own.wav") == 0
    assert capsys.readouterr().err == ""
    assert run("decode", "own.npz", "other.wav", "--model", MODEL) == 2
    assert (
        "these are tokens of vocos_onnx_24khz, and this model decodes those of encodec_24khz" in capsys.readouterr().err
    )
    assert not Path("other.wav").exists()


@pytest.mark.parametrize("how", ["decode", "list", "decode_stream", "push", "codes_to_features"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            OTHER,
            "these are tokens of some_codec, and this model decodes those of encodec_24khz, to which they are noise",
        ),
        ({"codec": "some_codec"}, "these are tokens of some_codec"),
        ({"codebooks_sha256": "ab" * 32}, "these are tokens of another codec"),
        ({**OTHER, "codec": "encodec_24khz"}, "(of that name too, but with other codebooks)"),
        ({"codec": "encodec_24khz", "sample_rate": 48_000}, "these are tokens of audio at 48000 Hz"),
    ],
)
def test_tokens_of_another_codec_are_refused(encodec: VocosONNX, how: str, changes: Any, message: str) -> None:
    tokens = Tokens(CODES, **changes)
    with pytest.raises(ValueError) as caught:
        match how:
            case "decode":
                encodec.decode(tokens)
            case "list":
                encodec.decode([Tokens(CODES), tokens])
            case "decode_stream":
                list(encodec.decode_stream([tokens]))
            case "push":
                encodec.stream().push(tokens)
            case "codes_to_features":
                encodec.codes_to_features(tokens)
    assert message in str(caught.value)


def test_tokens_for_a_mel_model(mel: VocosONNX) -> None:
    with pytest.raises(
        ValueError, match=r"these are tokens of some_codec, and this is a mel model, .* of their codec$"
    ):
        mel.decode(Tokens(CODES, **OTHER))


@pytest.mark.parametrize(
    ("codec", "model"), [("encodec_24khz", "charactr/vocos-encodec-24khz"), ("vocos_onnx_24khz", "vocos-codec-24khz")]
)
def test_the_model_of_a_known_codec_is_named(
    encodec: VocosONNX, mel: VocosONNX, folder: Path, capsys: pytest.CaptureFixture[str], codec: str, model: str
) -> None:
    other = VocosONNX(threads=1) if codec == "encodec_24khz" else encodec
    for vocos in (other, mel):
        with pytest.raises(ValueError, match=rf": pass the model of their codec, VocosONNX\('{model}'\)$"):
            vocos.decode(Tokens(CODES, codec=codec))
    np.savez("t.npz", tokens=CODES, codec=codec)
    assert run("decode", "t.npz", "o.wav", "--model", "vocos-mel-24khz-small") == 2
    assert capsys.readouterr().err.endswith(f": pass the model of their codec, --model {model}\n")


def test_a_file_of_another_codec_is_refused_on_the_command_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("other.npz", tokens=CODES, **OTHER)
    assert run("decode", "other.npz", "out.wav", "--model", MODEL) == 2
    error = capsys.readouterr().err
    assert "these are tokens of some_codec, and this model decodes those of encodec_24khz" in error
    assert error.count("\n") == 1
    assert not Path("out.wav").exists()


@pytest.mark.parametrize("name", ["plain.npy", "plain.npz", "codes.npz", "samples.npz"])
def test_a_file_without_a_codec_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    np.save("plain.npy", CODES)
    np.savez("plain.npz", CODES)
    np.savez("codes.npz", codes=CODES, source="somewhere")
    np.savez("samples.npz", tokens=CODES, samples=9600, sample_rate=24_000)
    assert run("decode", name, "out.wav", "--model", MODEL) == 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error == (f"vocos-onnx: warning: {name} names no codec, and is decoded as tokens of encodec_24khz\n")


def test_features_need_no_codec(
    folder: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    np.save("mel.npy", np.zeros((8, 20), np.float32))
    assert run("decode", "mel.npy", "out.wav", "--model", DATA / "mel.onnx") == 0
    assert capsys.readouterr().err == ""
    load_tokens("mel.npy")
    assert not recwarn.list


def test_one_warning_in_a_process(folder: Path) -> None:
    """Only files warn that they name no codec, once per process; arrays never do."""
    code = f"""
import warnings, numpy as np
from vocos_onnx import VocosONNX, load_tokens
np.save("t.npy", np.zeros((2, 30), int))
vocos = VocosONNX({MODEL!r})
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    vocos.decode(np.load("t.npy")); vocos.decode([np.load("t.npy")] * 2)
    assert not seen
    vocos.decode(load_tokens("t.npy")); vocos.decode(load_tokens("t.npy"))
    assert len(seen) == 1 and "names no codec, so decode cannot check" in str(seen[0].message), seen
    assert seen[0].filename == "<string>", seen[0].filename
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_save_and_load(
    tmp_path: Path, encoder: EncodecONNX, encodec: VocosONNX, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "t.npz"
    for codec in (encoder, encodec):
        save_tokens(path, CODES, codec, samples=9500)
        tokens = load_tokens(path)
        assert np.array_equal(tokens.codes, CODES)
        assert tokens.codes.dtype == np.int16
        assert (tokens.samples, tokens.sample_rate, tokens.codec) == (9500, 24_000, "encodec_24khz")
        assert np.array_equal(encodec.decode(tokens), encodec.decode(CODES))
    save_tokens(tmp_path / "again.npz", tokens)
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()
    with path.open("rb") as file:
        assert load_tokens(file).codec == "encodec_24khz"
    assert load_tokens(io.BytesIO(path.read_bytes())).samples == 9500
    one = encodec.decode(Tokens(CODES[:1], codec="encodec_24khz", codebooks_sha256=tokens.codebooks_sha256))
    assert np.array_equal(one, encodec.decode(CODES[:1]))  # fewer rows than the fingerprint covers
    assert not recwarn.list


@pytest.mark.parametrize(
    ("largest", "dtype"), [(32_767, np.int16), (32_768, np.int32), (65_535, np.int32), (2**31, np.int64)]
)
def test_no_value_wraps(tmp_path: Path, largest: Any, dtype: Any) -> None:
    codes = np.array([[0, largest]], np.uint32)
    save_tokens(tmp_path / "t.npz", codes)
    with np.load(tmp_path / "t.npz") as archive:
        assert archive["tokens"].dtype == dtype
        assert archive["tokens"].tolist() == [[0, largest]]


@pytest.mark.parametrize(
    ("name", "codes", "with_mel", "message"),
    [
        ("t.npy", CODES, False, "'t.npy' does not end in .npz"),
        ("t.npz", CODES.astype(float), False, "tokens have dtype float64 and shape (2, 30), expected integers"),
        ("t.npz", [[]], False, "tokens are empty, shape (1, 0); expected at least one codebook and one frame"),
        ("t.npz", None, False, "tokens: None is given, expected an array"),
        ("t.npz", CODES[0], False, "tokens have dtype int64 and shape (30,), expected integers (codebooks, frames)"),
        ("t.npz", CODES[:, :0], False, "shape (2, 0)"),
        ("t.npz", CODES + 1024, False, "are not of the codec encodec_24khz, which has 4 codebooks of 0 to 1023"),
        ("t.npz", np.zeros((5, 3), int), False, "tokens of 5 codebooks with values from 0 to 0 are not of the codec"),
        ("t.npz", np.array([[1 << 63]], np.uint64), None, "tokens hold the value 9223372036854775808"),
        ("t.npz", CODES, True, "the codec is a mel model, which has no tokens"),
    ],
)
def test_what_cannot_be_saved(
    tmp_path: Path, encoder: EncodecONNX, mel: VocosONNX, name: str, codes: Any, with_mel: bool | None, message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        save_tokens(tmp_path / name, codes, None if with_mel is None else mel if with_mel else encoder)
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "entries",
    [
        {"codec": 3},
        {"codec": ""},
        {"codec": "x" * 201},
        {"codec": "a\nb\x1b[31m"},
        {"codec": ["a", "b"]},
        {"codebooks_sha256": b"ab"},
        {"samples": 1.5},
        {"samples": [1, 2]},
        {"sample_rate": "24000"},
    ],
)
def test_damaged_entries(tmp_path: Path, entries: Any) -> None:
    np.savez(tmp_path / "t.npz", tokens=CODES, **{"codec": "encodec_24khz", **entries})
    with pytest.raises(ValueError, match=r"cannot read .*t\.npz: ") as caught:
        load_tokens(tmp_path / "t.npz")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["t.npz", "t.NPZ", "t.Npz"])
def test_any_case_of_the_ending(folder: Path, encoder: EncodecONNX, name: str) -> None:
    for tokens in (CODES, Tokens(CODES)):
        save_tokens(name, tokens, encoder)
        assert [path.name for path in Path().glob("*.[nN]*")] == [name]
        assert np.array_equal(load_tokens(name).codes, CODES)
    assert run("encode", "speech.wav", name, "--encoder", ENCODER, "--bandwidth", "1.5", "--force") == 0
    assert load_tokens(name).shape == (2, 38)
    assert run("decode", name, "out.wav", "--model", MODEL) == 0


def test_file_objects_are_written(tmp_path: Path, encoder: EncodecONNX) -> None:
    save_tokens(tmp_path / "t.npz", CODES, encoder)
    memory = io.BytesIO()
    save_tokens(memory, CODES, encoder)
    assert memory.getvalue() == (tmp_path / "t.npz").read_bytes()
    for read in (load_tokens, read_token_file):
        with pytest.raises(ValueError, match=r"at its end, after \d+ bytes; .* call file\.seek\(0\) first"):
            read(memory)
    memory.seek(0)
    assert load_tokens(memory) == load_tokens(tmp_path / "t.npz")
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb", buffering=0) as file:
        save_tokens(file, CODES, encoder)
    with os.fdopen(reader, "rb") as file:
        assert file.read() == memory.getvalue()
    with pytest.raises(ValueError, match=r'opened as text: open it with open\(path, "wb"\)'):
        save_tokens(io.StringIO(), CODES, encoder)  # type: ignore[arg-type]


def test_what_is_passed_in_another_place(tmp_path: Path, encoder: EncodecONNX) -> None:
    for codec, message in (
        ("encodec_24khz", "codec is 'encodec_24khz', expected the EncodecONNX that made the tokens"),
        (EncodecONNX, r"codec is <class .*: pass an object, such as EncodecONNX\(\)$"),
        (encoder.config, "codec is EncoderConfig"),
        (24_000, "codec is 24000, expected"),
    ):
        with pytest.raises(ValueError, match=message):
            save_tokens(tmp_path / "t.npz", CODES, codec)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"path is a ndarray, expected a path .* are swapped: pass the path first"):
        save_tokens(CODES, tmp_path / "t.npz", encoder)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'\.' does not end in \.npz"):
        save_tokens(".", CODES, encoder)
    with pytest.raises(ValueError, match="was given '', expected the path"):
        load_tokens("")
    with pytest.raises(FileNotFoundError, match=r"no token file https://x\.org/a\.npz: a URL is not opened"):
        load_tokens("https://x.org/a.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        OTHER,
        {"codec": "some_codec"},
        {**OTHER, "codec": "encodec_24khz"},
        {"codebooks_sha256": "ab" * 32},
        {"sample_rate": 16_000},
    ],
)
def test_another_codec_is_not_written_over(
    tmp_path: Path, encoder: EncodecONNX, encodec: VocosONNX, changes: Any
) -> None:
    for codec in (encoder, encodec):
        with pytest.raises(ValueError, match=r"these are tokens of "):
            save_tokens(tmp_path / "t.npz", Tokens(CODES, **changes), codec)
    assert not list(tmp_path.iterdir())
    save_tokens(tmp_path / "t.npz", Tokens(CODES, **changes))
    assert read_token_file(tmp_path / "t.npz") == Tokens(CODES, **changes)


def test_the_same_codec_may_be_named_again(tmp_path: Path, encoder: EncodecONNX, encodec: VocosONNX) -> None:
    path = tmp_path / "t.npz"
    for first in (encoder, encodec):
        save_tokens(path, CODES, first)
        tokens = load_tokens(path)
        for codec in (encoder, encodec, None):
            save_tokens(path, tokens, codec)
            assert load_tokens(path) == tokens
            save_tokens(path, Tokens(CODES[:1], codebooks_sha256=tokens.codebooks_sha256), codec)


@pytest.mark.parametrize("samples", [0, 10, 9280, 9601, 480_000])
def test_samples_that_the_frames_are_not_of(
    tmp_path: Path, encoder: EncodecONNX, encodec: VocosONNX, samples: int
) -> None:
    for codec in (encoder, encodec):
        with pytest.raises(
            ValueError, match=rf"samples is {samples}, but 30 frames are of 9281 to 9600 .*leave it out"
        ):
            save_tokens(tmp_path / "t.npz", CODES, codec, samples=samples)
        with pytest.raises(ValueError, match=rf"samples is {samples}, .*dataclasses\.replace"):
            save_tokens(tmp_path / "t.npz", Tokens(CODES, samples=samples), codec)
    with pytest.raises(ValueError, match="samples is 10, but 30 frames are of 30 or more"):
        save_tokens(tmp_path / "t.npz", CODES, samples=10)
    assert not list(tmp_path.iterdir())
    for right in (9281, 9600):
        save_tokens(tmp_path / "t.npz", CODES, encoder, samples=right)


def test_tokens_are_compared_and_measured() -> None:
    tokens = Tokens(CODES, 9600, 24_000, "a", "b")
    assert tokens == Tokens(CODES.copy(), 9600, 24_000, "a", "b")
    assert tokens != Tokens(CODES, 9600, 24_000, "a")
    assert tokens != Tokens(CODES[:, :5], 9600, 24_000, "a", "b")
    assert tokens != CODES.tolist()
    assert (len(tokens), tokens.shape) == (2, (2, 30))
    assert tokens in [Tokens(CODES), tokens]


@pytest.mark.parametrize("samples", ["abc", 2.5, 10**30, -1, [1], object()])
def test_samples_that_are_no_number(tmp_path: Path, samples: Any) -> None:
    with pytest.raises(ValueError, match="expected how many samples the recording has"):
        save_tokens(tmp_path / "t.npz", CODES, samples=samples)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["samples", "sample_rate", "codec", "codebooks_sha256"])
def test_entries_are_not_unpacked_where_they_are_large(tmp_path: Path, name: str) -> None:
    value = np.zeros(1 << 17, "<U1") if name.startswith("cod") else np.zeros(1 << 16)
    np.savez_compressed(tmp_path / "t.npz", tokens=CODES, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"its {name} takes more than 4096 bytes, expected one value"):
        load_tokens(tmp_path / "t.npz")


def test_members_that_are_no_arrays(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        archive.writestr("tokens", b"x")
    with pytest.raises(ValueError, match="its 'tokens' is no array"):
        load_tokens(tmp_path / "t.npz")


def test_names_of_arrays_are_shortened(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", **{f"{i}\x1b[31m" + "x" * 500: CODES for i in range(100)})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="and 90 more; name one of them tokens") as caught:
        load_tokens(tmp_path / "t.npz")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1500


def test_a_list_of_codes_is_an_array(encodec: VocosONNX) -> None:
    tokens = Tokens(CODES.tolist())
    assert tokens.anonymous
    assert np.array_equal(encodec.decode(tokens), encodec.decode(CODES))


@pytest.mark.filterwarnings("ignore:.* names no codec")
@pytest.mark.parametrize(
    ("compression", "megabytes", "right"),
    [
        (zipfile.ZIP_STORED, 80, True),
        (zipfile.ZIP_DEFLATED, 60, True),
        (zipfile.ZIP_DEFLATED, 80, False),
        (zipfile.ZIP_BZIP2, 1, False),
        (zipfile.ZIP_LZMA, 1, False),
    ],
)
def test_archives_that_unpack_to_much(tmp_path: Path, compression: Any, megabytes: int, right: bool) -> None:
    with zipfile.ZipFile(tmp_path / "t.npz", "w", compression) as archive, archive.open("tokens.npy", "w") as file:
        header = {"descr": "|i1", "fortran_order": False, "shape": (4, megabytes << 18)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(megabytes):
            file.write(bytes(1 << 20))
    if right:
        assert load_tokens(tmp_path / "t.npz").codes.shape == (4, megabytes << 18)
    else:
        reason = (
            "is compressed by (bzip2|LZMA), expected stored" if megabytes == 1 else "unpacks to .* expected at most"
        )
        with pytest.raises(ValueError, match=rf"its 'tokens' {reason}"):
            load_tokens(tmp_path / "t.npz")


# token files of other programs

LONG = np.random.default_rng(2).integers(1024, size=(2, 300))
AXES = {"(K, T)": CODES, "(1, K, T)": CODES[None], "(K, 1, T)": CODES[:, None], "(1, 1, K, T)": CODES[None, None]}


def near(audio: np.ndarray, expected: np.ndarray) -> bool:
    """Equal up to rounding, which differs in streams."""
    return audio.shape == expected.shape and bool(np.abs(audio - expected).max() <= 1e-5 * np.abs(expected).max())


def save(path: Path, arrays: dict[str, Any]) -> Path:
    """Write a file of the kind named by its suffix; .npy and a JSON list hold only the last array."""
    match path.suffix:
        case ".npy":
            np.save(path, list(arrays.values())[-1])
        case ".npz":
            np.savez(path, **arrays)
        case ".json":
            path.write_text(json.dumps({name: array.tolist() for name, array in arrays.items()}))
        case ".list":
            path = path.with_suffix(".json")
            path.write_text(json.dumps(list(arrays.values())[-1].tolist()))
        case ".safetensors":
            path.write_bytes(safetensors(arrays))
    return path


def safetensors(arrays: dict[str, np.ndarray], **changes: object) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "np"}}
    data = b""
    for name, array in arrays.items():
        first, data = len(data), data + array.tobytes()
        dtype = f"{array.dtype.kind.upper()}{8 * array.dtype.itemsize}"
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [first, len(data)], **changes}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("kind", [".npy", ".npz", ".json", ".list", ".safetensors"])
@pytest.mark.parametrize("axes", AXES)
def test_axes_of_one_are_left_out(folder: Path, encodec: VocosONNX, kind: str, axes: Any) -> None:
    path = save(folder / f"t{kind}", {"tokens": AXES[axes]})
    assert np.array_equal(read_token_file(path).codes, CODES)
    assert run("decode", path, "out.wav", "--model", MODEL) == 0
    np.save("plain.npy", CODES)
    assert run("decode", "plain.npy", "plain.wav", "--model", MODEL) == 0
    assert Path("out.wav").read_bytes() == Path("plain.wav").read_bytes()


@pytest.mark.parametrize("kind", [".npz", ".json", ".safetensors"])
@pytest.mark.parametrize("name", ["tokens", "codes", "fine_prompt", "audio_tokens", "audio_codes"])
def test_names_of_others(tmp_path: Path, kind: str, name: str) -> None:
    others = {"semantic_prompt": np.arange(9), "coarse_prompt": CODES[:1]}
    path = save(tmp_path / f"t{kind}", {**others, name: CODES})
    assert np.array_equal(read_token_file(path).codes, CODES)
    assert np.array_equal(read_token_file(path, "coarse_prompt").codes, CODES[:1])
    with path.open("rb") as file:
        assert np.array_equal(read_token_file(file, name).codes, CODES)


@pytest.mark.parametrize("kind", [".npz", ".json", ".safetensors"])
def test_several_arrays_are_listed(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path / f"t{kind}", {"semantic_prompt": np.arange(9), "coarse_prompt": CODES})
    for key in (None, "missing", "tokens"):
        with pytest.raises(
            ValueError, match=r'semantic_prompt \(9,\) .*, coarse_prompt \(2, 30\) .*--key NAME .*key="NAME"'
        ):
            load_tokens(path, key=key)
    for lonely in (".npy", ".list"):
        with pytest.raises(ValueError, match="holds one array, without a name: leave out the key 'codes'"):
            read_token_file(save(tmp_path / f"one{lonely}", {"codes": CODES}), "codes")


def test_metadata_does_not_hide_the_only_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", mine=CODES, samples=9000, codec="encodec_24khz")
    tokens = load_tokens(tmp_path / "t.npz")
    assert (tokens.samples, tokens.codec) == (9000, "encodec_24khz")
    (tmp_path / "t.json").write_text(json.dumps({"codes": CODES.tolist(), "samples": 9000, "codec": "encodec_24khz"}))
    tokens = load_tokens(tmp_path / "t.json")
    assert (tokens.samples, tokens.codec) == (9000, "encodec_24khz")


def test_features_of_others(tmp_path: Path, mel: VocosONNX) -> None:
    features = np.random.default_rng(3).standard_normal((8, 20)).astype(np.float32)
    for kind in (".npy", ".npz", ".safetensors"):
        path = save(tmp_path / f"t{kind}", {"mel": features[None]})
        assert np.array_equal(mel.decode(load_tokens(path)), mel.decode(features))
    half = (features.view(np.uint32) >> 16).astype(np.uint16)  # truncated to bfloat16
    (tmp_path / "b.safetensors").write_bytes(safetensors({"mel": half}, dtype="BF16"))
    expected = (half.astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(load_tokens(tmp_path / "b.safetensors").codes, expected)


@pytest.mark.parametrize("kind", [".npy", ".npz", ".json", ".list"])
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (LONG.T, "looks like frames before codebooks"),
        (LONG.T[None], "looks like frames before codebooks"),
        (LONG.T[None, None], "looks like frames before codebooks"),
        (np.stack([LONG, LONG])[None], "transformers returns tokens (chunks, batch, codebooks, frames)"),
        (np.stack([LONG[None, :, :150], LONG[None, :, 150:]]), "transformers returns tokens (chunks, batch, codebooks"),
    ],
)
def test_the_line_that_a_message_shows_works(folder: Path, kind: str, array: Any, message: str) -> None:
    path = save(Path(f"t{kind}"), {"codes": array})
    with pytest.raises(ValueError) as caught:
        load_tokens(path)
    said = str(caught.value)
    assert message in said and said.startswith(f"{path} has shape ")
    line = said[said.index("numpy.save(") :].rsplit(" saves ", 1)[0]
    exec(line, {"numpy": np, "json": json, "pathlib": pathlib})
    (saved,) = Path().glob("t_*.npy")  # written under a new name
    assert np.array_equal(read_token_file(saved).codes, LONG)


def test_a_table_of_text_is_named_with_what_reads_it(folder: Path) -> None:
    for name, text in (("t.txt", "1 2 3\n4 5 6\n"), ("t.csv", "1,2,3\n4,5,6")):
        Path(name).write_text(text)
        with pytest.raises(ValueError, match="it is text: ") as caught:
            load_tokens(name)
        said = str(caught.value)
        exec(said[said.index("numpy.save(") :].rsplit(" makes ", 1)[0], {"numpy": np})
        assert read_token_file(f"{name}.npy").codes.tolist() == [[1, 2, 3], [4, 5, 6]]


def torch_zip() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("tokens/data.pkl", pickle.dumps(1))
    return data.getvalue()


def npy(array: object) -> bytes:
    data = io.BytesIO()
    np.save(data, np.array(array, dtype=object), allow_pickle=True)
    return data.getvalue()


RECORDING = io.BytesIO()
soundfile.write(RECORDING, np.zeros(2000), 24_000, format="WAV")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.ecdc", b"ECDC" + bytes(200), "ECDC"),
        ("a.bin", b"ECDC" + bytes(200), "encodec a.ecdc a.wav"),
        ("t.pt", torch_zip(), 'torch.load("t.pt", map_location="cpu", weights_only=True)'),
        ("t.npz", torch_zip(), "weights_only=True"),
        ("t.bin", torch_zip(), "weights_only=True"),
        ("t.pth", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "weights_only=True"),
        ("t.pkl", pickle.dumps([1, 2]), "it is a pickle, and holds Python objects, which are never loaded"),
        ("t.npy", pickle.dumps({"codes": 1}), "it is a pickle"),
        ("t.npy", npy({"codes": 1}), "its array holds Python objects, which are never loaded"),
        ("t.npy", npy([[1, 2], [3]]), 'numpy.save("tokens.npy", numpy.array(tokens, dtype=numpy.int64))'),
        ("a.wav", RECORDING.getvalue(), "it is audio, not tokens: vocos-onnx encode a.wav a.npz"),
        ("a.npy", RECORDING.getvalue(), "it is audio"),
        ("a.mp3", b"\xff\xfb\x90\x00" + bytes(100), "it is audio"),
        ("a.m4a", b"\0\0\0\x1cftypM4A " + bytes(100), "it is audio"),
        ("a.flac", b"fLaC" + bytes(100), "it is audio"),
        ("a.opus", b"OggS" + bytes(100), "it is audio"),
        ("m.onnx", Path(MODEL).read_bytes()[:1000], "it is a model (ONNX), not a token file"),
        ("t.npz", Path(MODEL).read_bytes(), "it is a model (ONNX), not a token file"),
        ("t.npz", b"<!DOCTYPE html><html>", "it is a page (HTML or XML), not a token file"),
        ("t.npz", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("t.npy.gz", gzip.compress(b"x", mtime=0), "compressed by gzip"),
        ("t.txt", b"hello", "it is text, not a token file"),
        ("t.npy", b"", "it is empty"),
        ("t.json", b"", "it is empty"),
        ("t.dat", bytes(range(1, 256)) * 3, "it is not a token file"),
        ("t.npz", bytes(range(1, 256)) * 3, "it is damaged, or not .npz in spite of its name"),
    ],
)
def test_files_of_other_kinds_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, data: Any, message: str
) -> None:
    Path(name).write_bytes(data)
    with pytest.raises(ValueError) as caught:
        load_tokens(name)
    assert message in str(caught.value)
    assert run("decode", name, "out.flac", "--model", MODEL) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "allow_pickle" not in error
    with pytest.raises(ValueError, match="cannot read the file: "):
        load_tokens(io.BytesIO(data))


def test_pickles_in_any_place_are_not_loaded(tmp_path: Path) -> None:
    """No pickle is loaded, neither as tokens nor as metadata; loading one here would create a file."""

    class Bad:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "loaded").touch, ())

    objects = np.array([Bad()], dtype=object)
    for name in ("tokens", "only", "codec", "samples"):
        np.savez(tmp_path / "t.npz", **{"codes": CODES, name: objects} if name != "only" else {"only": objects})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="Python objects, which are never loaded") as caught:
            load_tokens(tmp_path / "t.npz")
        assert "allow_pickle" not in str(caught.value)
    np.save(tmp_path / "t.npy", objects)
    for file in (tmp_path / "t.npy", io.BytesIO((tmp_path / "t.npy").read_bytes())):
        with pytest.raises(ValueError, match="Python objects, which are never loaded"):
            load_tokens(file)
    assert not (tmp_path / "loaded").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[1, 2], [3]]", "is ragged: its first list has 2 items and list 2 has 1"),
        ("[[1, 2], 3]", r"holds \[1, 2\], expected integers"),
        ("[[1, NaN]]", "it holds NaN, expected integers"),
        ("[[1, -Infinity]]", "it holds -Infinity"),
        ("[[1.0, 2.0]]", r"holds 1\.0, expected integers: write them without a point"),
        ("[[1.5]]", r"holds 1\.5, expected integers$"),
        ("[[true, 1]]", "holds True, expected integers"),
        ("[[null, 1]]", "holds None, expected integers"),
        ('[["1", "2"]]', "holds '1', expected integers"),
        ("[" * 100_000, "nested more than 4 deep"),
        ("[[[[[1]]]]]", "nested more than 4 deep"),
        ('{"codes": [[1]], "codes": [[2]]}', "it has the name 'codes' more than once"),
        (f"[[{'9' * 5000}]]", "an integer of 5000 digits"),
        (f"[[{1 << 64}]]", "holds 18446744073709551616, expected integers of tokens"),
        ("[[1, 2], [3, 4]", "it is no valid JSON"),
        ('{"a": [[1]], "b": {}}', r"holds the arrays a \(1, 1\) int64, b \(no array\); .*--key NAME"),
        ('{"a": 1, "b": {}}', "t.json: it has the keys a, b and no list; expected tokens, a list of lists of integers"),
        ('{"x": 1}', "it has the key x and no list; expected tokens"),
        ("{}", "holds nothing, expected tokens"),
        ('{"codes": [[1]], "samples": "x"}', "samples is 'x', expected how many samples"),
        ('{"codes": [[1]], "samples": true}', "samples is .*True.*, expected how many samples"),
        ("\n".join(["[[1]]"] * 2), "it is no valid JSON"),
        (" " * 9000 + "x", "not a token file|it is text"),
    ],
)
def test_json_that_holds_no_tokens(tmp_path: Path, text: Any, message: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_tokens(tmp_path / "t.json")
    assert len(str(caught.value)) < 500


def test_json_of_other_programs(tmp_path: Path) -> None:
    """JSON may have a byte order mark, or be UTF-16 as from PowerShell; too long a file is rejected before parsing."""
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le"):
        (tmp_path / "t.json").write_text(json.dumps(CODES.tolist(), indent=2), encoding)
        assert np.array_equal(read_token_file(tmp_path / "t.json").codes, CODES)
    (tmp_path / "t.json").write_bytes(b"[" + b" " * (17 << 20))
    with pytest.raises(ValueError, match="JSON of more than 16 MiB"):
        load_tokens(tmp_path / "t.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_offsets": [0, 470]}, "lies from 0 to 470 of 480 bytes"),
        ({"data_offsets": [-8, 472]}, "lies from -8 to 472"),
        ({"data_offsets": [8, 488]}, "lies from 8 to 488"),
        ({"data_offsets": [0]}, "is described as"),
        ({"shape": [2, 1 << 62]}, "of shape"),
        ({"shape": [2, -30]}, "is described as"),
        ({"shape": [2, True]}, "is described as"),
        ({"shape": None}, "is described as"),
        ({"dtype": "BOOL"}, "has dtype 'BOOL', expected one of I8, I16"),
        ({"dtype": "F8_E4M3"}, "has dtype 'F8_E4M3'"),
        ({"dtype": 3}, "is described as"),
    ],
)
def test_damaged_safetensors(tmp_path: Path, changes: Any, message: str) -> None:
    (tmp_path / "t.safetensors").write_bytes(safetensors({"codes": CODES}, **changes))
    with pytest.raises(ValueError, match=message):
        load_tokens(tmp_path / "t.safetensors")


@pytest.mark.parametrize("more", ["itself", "a byte", "70 kB", "zeros"])
@pytest.mark.parametrize("kind", [".npy", ".npz", ".json", ".safetensors"])
def test_joined_files_are_refused(tmp_path: Path, kind: str, more: str) -> None:
    path = save(tmp_path / f"t{kind}", {"tokens": CODES})
    data = path.read_bytes()
    extra = {"itself": data, "a byte": b"x", "70 kB": b"\x81" * 70_000, "zeros": b"\0" * 100}[more]
    for joined in (data + extra, *([extra + data] if more == "itself" or kind == ".npz" else [])):
        path.write_bytes(joined)
        for given in (path, io.BytesIO(joined)):
            with pytest.raises(ValueError, match="cannot read") as error:
                load_tokens(given)
            if kind != ".json" and more == "itself":
                assert f"it has {len(data)} bytes " in str(error.value)
                assert "joined together" in str(error.value)


def test_archives_that_end_as_they_may(tmp_path: Path) -> None:
    """Archives may have a long comment and several arrays, and may have been written to a stream that cannot seek."""
    path = tmp_path / "t.npz"
    np.savez(path, tokens=CODES, samples=600)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"made by hand " * 1000
    assert np.array_equal(read_token_file(path).codes, CODES)

    class Pipe(io.RawIOBase):
        written = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.written += bytes(data)
            return len(data)

    for write in (np.savez, np.savez_compressed):
        pipe = Pipe()
        write(pipe, tokens=CODES, other=CODES[:, :0])
        assert np.array_equal(read_token_file(io.BytesIO(pipe.written)).codes, CODES)


def test_safetensors_with_a_header_that_is_not_there(tmp_path: Path) -> None:
    data = safetensors({"codes": CODES})
    for length in (1 << 31, len(data), 5):
        (tmp_path / "t.safetensors").write_bytes(length.to_bytes(8, "little") + data[8:])
        with pytest.raises(ValueError, match=r"its header promises|it is no valid JSON"):
            load_tokens(tmp_path / "t.safetensors")


@pytest.mark.parametrize("kind", [".npy", ".npz", ".json", ".safetensors"])
def test_files_that_cannot_seek(tmp_path: Path, kind: str) -> None:
    data = save(tmp_path / f"t{kind}", {"codes": CODES}).read_bytes()
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as file:
        file.write(data)
    with os.fdopen(reader, "rb", buffering=0) as file:
        assert np.array_equal(read_token_file(file).codes, CODES)
    later = io.BytesIO(b"something before" + data)
    later.seek(16)
    assert np.array_equal(read_token_file(later).codes, CODES)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    thread = threading.Thread(target=fifo.write_bytes, args=(data,))
    thread.start()
    assert np.array_equal(read_token_file(fifo).codes, CODES)
    thread.join()


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs Unix")
def test_devices_end(tmp_path: Path) -> None:
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises(ValueError, match=r"not a token file|it is empty"):
            load_tokens(device)
    with pytest.raises(ValueError, match="it is a folder; expected a token file"):
        load_tokens(tmp_path)
    with pytest.raises(FileNotFoundError, match="no token file"):
        load_tokens(tmp_path / "missing.npz")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"tokens.npz", r"given bytes: pass io\.BytesIO\(data\)"),
        (CODES, "arrays need no loading: decode takes them"),
        (None, "expected the path of a token file"),
        (io.StringIO("[[1]]"), r'opened as text: open it with open\(path, "rb"\)'),
    ],
)
def test_what_is_no_file(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_tokens(given)


def test_truncated_arrays(tmp_path: Path) -> None:
    data = save(tmp_path / "t.npy", {"codes": LONG}).read_bytes()
    (tmp_path / "t.npy").write_bytes(data[:-100])
    with pytest.raises(ValueError, match="promises 4800 bytes and has 4700: it is truncated"):
        load_tokens(tmp_path / "t.npy")
    data = save(tmp_path / "t.npz", {"codes": LONG}).read_bytes()
    (tmp_path / "t.npz").write_bytes(data[:-100])
    with pytest.raises(ValueError, match="it is truncated or damaged"):
        load_tokens(tmp_path / "t.npz")


# arguments in place of an array


def test_what_encodec_and_transformers_return(encodec: VocosONNX) -> None:
    expected = encodec.decode(CODES)
    given: Any
    for given in ([(CODES[None], None)], [[CODES[None], None]], (CODES[None], None), CODES[None, None], CODES.tolist()):
        assert np.array_equal(encodec.decode(given), expected)
        assert np.array_equal(encodec.decode(Tokens(given)), expected)
        assert near(np.concatenate(list(encodec.decode_stream([given]))), expected)
    assert np.array_equal(encodec.decode(Tokens(CODES[None]), layout="bkt")[0], expected)
    assert np.array_equal(encodec.decode(Tokens(CODES[:, None]))[0], expected)


def rows(given: Any) -> Any:
    """An object array of rows, as in a cell of pandas or parquet."""
    array = np.empty(len(given), object)
    array[:] = [np.asarray(row) for row in given]
    return array


def test_rows_of_objects(tmp_path: Path, encodec: VocosONNX, mel: VocosONNX) -> None:
    assert np.array_equal(encodec.decode(np.stack(rows(CODES))), encodec.decode(CODES))
    with pytest.raises(ValueError, match=r"features have dtype object, .*: pass np\.stack\(features\)$"):
        mel.decode(rows(np.zeros((8, 20))))
    with pytest.raises(ValueError, match=r": pass np\.stack\(tokens\)$"):
        save_tokens(tmp_path / "t.npz", rows(CODES))


def test_chunks_of_transformers_are_joined_in_time(encodec: VocosONNX) -> None:
    chunks = np.stack([CODES[None, :, :15], CODES[None, :, 15:]])
    with pytest.raises(ValueError, match="4 dimensions") as caught:
        encodec.decode(chunks)
    call = str(caught.value).rpartition("pass ")[2].replace(" with ", ", ")
    assert np.array_equal(
        eval(f"decode({call})", {"numpy": np, "tokens": chunks, "decode": encodec.decode})[0], encodec.decode(CODES)
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([(CODES[None], None)] * 2, r"concatenate\(\[codes for codes, _ in given\], axis=-1\) with layout=\"bkt\""),
        ([(CODES[None], np.ones((1, 1)))], "with scales, as its 48 kHz model makes them"),
        ([(np.stack([CODES, CODES]), None)], r'a batch of 2: pass given\[0\]\[0\] with layout="bkt"'),
        ({"fine_prompt": CODES, "coarse_prompt": CODES}, r"a dict was given, .*given\['fine_prompt'\]"),
        ({}, "a dict was given, with the entries none"),
        (iter([CODES]), "was given, expected an array; decode_stream takes chunks in turn"),
        (np.ma.masked_greater(CODES, 500), r"values are masked, .* numpy\.ma\.compress_cols\(given\)"),
        (np.stack([CODES, CODES])[None], r'4 dimensions, .* pass tokens\[0\] with layout="bkt"'),
        ([CODES, "a"], "item 1 of it is 'a', expected numbers"),
        ([CODES.tolist(), None], "item 1 of it is None, expected numbers"),
        (rows(CODES), r"dtype object, .*: pass np\.stack\(tokens\)$"),
        (rows([[1, 2, 3], [4]]), "rows of different lengths"),
        (CODES[0], r"1 dimension, .*pass tokens\[None\], of a single frame tokens\[:, None\]"),
        (LONG.T, r"300 codebooks, expected 1 to 2 .*pass tokens\.T"),
    ],
)
def test_what_holds_no_single_array(encodec: VocosONNX, given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encodec.decode(given)


def test_an_archive_of_numpy_is_no_array(tmp_path: Path, encodec: VocosONNX) -> None:
    np.savez(tmp_path / "t.npz", codes=CODES)
    with (
        np.load(tmp_path / "t.npz") as archive,
        pytest.raises(ValueError, match=r"a NpzFile was given, with the entries codes: .*given\['codes'\]"),
    ):
        encodec.decode(archive)


def test_frames_before_codebooks(encodec: VocosONNX) -> None:
    with pytest.raises(ValueError, match=r"30 codebooks, .*like \(batch, frames, codebooks\): pass tokens\[0\]\.T"):
        encodec.decode(CODES.T[None], layout="bkt")
    assert np.array_equal(encodec.decode(CODES.T[None][0].T), encodec.decode(CODES))


def test_a_bandwidth_id_shows_that_the_axes_are_swapped() -> None:
    """The bundled codec's bandwidths have 2, 4, 8 or 16 codebooks: (1, 8, T) is not a batch of 8 with one codebook."""
    vocos, codes = VocosONNX(threads=1), np.random.default_rng(4).integers(1024, size=(8, 10))
    for given in ((codes[None], 2), (codes[None],)):
        with pytest.raises(ValueError, match="layout='bkt' for the other order of the first two axes"):
            vocos.decode(*given)
    assert np.array_equal(vocos.decode(codes[None], 2, layout="bkt")[0], vocos.decode(codes, 2))
    with pytest.raises(ValueError, match=r"pass tokens\[0\]\.T"):
        vocos.decode(np.tile(codes, 3).T[None])


# dtypes

DTYPES = [*np.typecodes["All"], ">i2", ">u8", "<i8", ">f4", "U4", "S4", "M8[s]", "m8[ms]", "V2", [("a", "i4")]]


def as_type(kind: Any) -> np.ndarray:
    with np.errstate(all="ignore"):
        try:
            return (CODES % 100).astype(kind)
        except (TypeError, ValueError):
            return np.zeros(CODES.shape, kind)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", DTYPES, ids=str)
def test_every_type_as_tokens(tmp_path: Path, encodec: VocosONNX, kind: Any) -> None:
    given = as_type(kind)
    integers = given.dtype.kind in "iu"

    def from_save_tokens() -> np.ndarray:
        save_tokens(tmp_path / "a.npz", given)
        return encodec.decode(read_token_file(tmp_path / "a.npz"))

    def from_savez() -> np.ndarray:
        np.savez(tmp_path / "b.npz", given)
        return encodec.decode(read_token_file(tmp_path / "b.npz"))

    def entries() -> Iterator[Callable[[], np.ndarray]]:
        yield lambda: encodec.decode(given)
        yield lambda: encodec.decode([given])[0]
        yield lambda: encodec.decode(Tokens(given))
        yield lambda: np.concatenate(list(encodec.decode_stream([given])))
        yield from_save_tokens
        yield from_savez

    for one in entries():
        if integers:
            assert near(one(), encodec.decode(CODES % 100))
        else:
            with pytest.raises(ValueError, match=r"expected|Python objects"):
                one()
    with contextlib.nullcontext() if integers else pytest.raises(ValueError, match="expected"):
        encodec.codes_to_features(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (CODES.astype(np.float32), r"like tokens stored as floats: pass tokens\.astype\(np\.int64\)"),
        (CODES.astype(object), r"whole numbers in another type: pass tokens\.astype\(np\.int64\)"),
        (CODES.astype("U"), r"whole numbers in another type: pass tokens\.astype\(np\.int64\)"),
        (CODES.astype("S"), r"whole numbers in another type: pass tokens\.astype\(np\.int64\)"),
        (CODES + 0.5, "floats are features, which decode takes as they are"),
        (CODES.astype("m8[s]"), r"dtype timedelta64\[s\], expected integers of 0 to 1023$"),
        (CODES > 3, "dtype bool, expected integers of 0 to 1023$"),
        (np.zeros((2, 3), [("a", "i4"), ("b", "i4")]), r"has the fields a, b: pass tokens\['a'\]"),
        (np.zeros((2, 3), "V2"), r"pass features\.view\(ml_dtypes\.bfloat16\)\.astype\(np\.float32\)"),
    ],
)
def test_what_to_do_with_another_type(encodec: VocosONNX, given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encodec.codes_to_features(given)


def test_bfloat16_is_not_called_tokens(encodec: VocosONNX) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for kind in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2):
        with pytest.raises(ValueError, match="features, which") as caught:
            encodec.codes_to_features(((CODES % 8 + 0.5) / 8).astype(kind))
        assert "int64" not in str(caught.value)
    with pytest.raises(ValueError, match=r"pass tokens\.astype\(np\.int64\)"):
        encodec.codes_to_features((CODES % 8).astype(ml_dtypes.int4))


@pytest.mark.parametrize("size", [32_769, 40_000, 65_536])
def test_codes_of_large_codebooks_do_not_wrap(tmp_path: Path, size: int) -> None:
    """The index of the last entry survives the quantiser and the file."""
    codebooks = np.zeros((1, size, 2), np.float32)
    codebooks[0, -1] = 1
    codes = quantize(np.array([[[1, 1], [0, 0]]], np.float32), codebooks)[:, 0]
    assert codes.tolist() == [[size - 1, 0]]
    save_tokens(tmp_path / "t.npz", codes)
    assert read_token_file(tmp_path / "t.npz").codes.tolist() == [[size - 1, 0]]


@pytest.mark.parametrize("samples", [np.timedelta64(9000, "s"), True, np.bool_(True), 9000.0, np.float32(9000)])
def test_samples_of_other_types(tmp_path: Path, samples: Any) -> None:
    with pytest.raises(ValueError, match="expected how many samples the recording has"):
        save_tokens(tmp_path / "t.npz", CODES, samples=samples)
    np.savez(tmp_path / "t.npz", tokens=CODES, samples=samples)
    with pytest.raises(ValueError, match="expected how many samples the recording has"):
        load_tokens(tmp_path / "t.npz")


@pytest.mark.parametrize("changes", [{"sample_rate": "x"}, {"sample_rate": True}, {"codec": 3}, {"codec": "a\nb"}])
def test_no_file_is_written_that_cannot_be_read(tmp_path: Path, changes: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        save_tokens(tmp_path / "t.npz", Tokens(CODES, **changes))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16])
def test_chunk_of_a_small_integer_type(encoder: EncodecONNX, kind: Any) -> None:
    """Sums in the chunk's own type would wrap and lose frames."""
    audio = np.random.default_rng(5).normal(0, 0.1, 320 * 300).astype(np.float32)
    blocks = np.split(audio, 3)
    expected = np.concatenate(list(encoder.encode_stream(blocks, 24_000, 1.5, chunk=100)), axis=1)
    given = np.concatenate(list(encoder.encode_stream(blocks, 24_000, 1.5, chunk=kind(100))), axis=1)
    assert np.array_equal(given, expected)
    chunk: Any
    for chunk in (1.5, True, "8", None, np.timedelta64(8, "s"), kind(0)):
        with pytest.raises(ValueError, match="expected 1 or more frames, an integer"):
            encoder.encode_stream(blocks, 24_000, 1.5, chunk=chunk)


def test_an_archive_with_a_name_twice(tmp_path: Path) -> None:
    """A duplicate name raises an error, also if only one has numpy's .npy suffix; otherwise one would silently win."""
    for names in (("tokens.npy", "tokens.npy"), ("tokens.npy", "tokens"), ("tokens.npy", "codec.npy", "codec.npy")):
        with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive, warnings.catch_warnings(action="ignore"):
            for name in names:
                with archive.open(name, "w") as file:
                    np.save(file, CODES)
        with pytest.raises(ValueError, match=r"it has the name '(tokens|codec)' more than once"):
            load_tokens(tmp_path / "t.npz")


def test_names_and_numbers_that_cannot_be_printed(encoder: EncodecONNX, encodec: VocosONNX) -> None:
    """Error messages stay short and printable, and Python's limit on digits does not replace them."""
    for given in (
        *(Tokens(CODES, codec=name) for name in ("\ud800", "a\n\x1b[31m", "x" * 10_000)),
        Tokens(CODES, codec="encodec_24khz", sample_rate=10**5000),
    ):
        for refused in (
            lambda given=given: encodec.decode(given),
            lambda given=given: VocosONNX(DATA / "mel.onnx").decode(given),
            lambda given=given: save_tokens(io.BytesIO(), given, encoder),
        ):
            with pytest.raises(ValueError) as error:
                refused()
            assert str(error.value).isprintable() and len(str(error.value)) < 500
            assert "int_max_str_digits" not in str(error.value)
    for number in (10**3900, 10**5000):
        for name in ("bandwidth", "bandwidth_id"):
            with pytest.raises(ValueError, match=rf"^{name} is an integer of \d+ bits, expected"):
                encodec.decode(CODES, **dict[str, Any]({name: number}))
    with pytest.raises(ValueError, match=r"an integer of \d+ bits\) are given; pass one"):
        encodec.decode(CODES, bandwidth=10**5000, bandwidth_id=10**5000)


def test_tokens_of_more_codebooks_than_the_model_has(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Such as EnCodec's at 24 kbps: a bandwidth decodes the first ones. Their fingerprint cannot be compared."""
    vocos = VocosONNX(MODEL)
    codes = np.random.default_rng(0).integers(0, 1024, (5, 40))
    tokens = Tokens(codes, codec="encodec_24khz", codebooks_sha256="0" * 64)
    expected = vocos.decode(codes[:2])
    for given in (codes, tokens):
        assert np.array_equal(vocos.decode(given, bandwidth=1.5), expected)
        assert np.array_equal(vocos.decode(given, bandwidth=0.75), vocos.decode(codes[:1]))
        with pytest.raises(ValueError, match=r"5 codebooks, expected 1 to 2 .*pass tokens\[:2\]"):
            vocos.decode(given)
    with pytest.raises(ValueError, match="these are tokens of another"):
        vocos.decode(Tokens(codes, codec="another", codebooks_sha256="0" * 64), bandwidth=1.5)
    np.savez("five.npz", tokens=codes, codec="encodec_24khz", codebooks_sha256="0" * 64)
    assert run("decode", "five.npz", "out.wav", "--model", MODEL) == 2
    error = capsys.readouterr().err
    assert "five.npz has 5 codebooks, and no bandwidth has as many" in error
    assert "pass --bandwidth 1.5 to decode the first 2 of them" in error
    assert run("decode", "five.npz", "out.wav", "--model", MODEL, "--bandwidth", "1.5") == 0
    Path("five").mkdir()
    Path("five.npz").rename("five/five.npz")
    assert run("batch", "five", "out", "--model", MODEL, "--bandwidth", "1.5", "--format", "wav") == 0
    for path in ("out.wav", "out/five.wav"):
        assert np.abs(load_audio(path, 24_000) - expected.clip(-1, 1)).max() < 1e-4
