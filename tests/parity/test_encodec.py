"""The encoder: an exported EncodecONNX gives what encodec, transformers or train/ gives with the same weights."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import pickle
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch
import yaml
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import encodec
    from transformers import EncodecConfig, EncodecModel

import vocos_onnx_export.encodec as export_module
import vocos_onnx_train
from tests.hub.server import Hub
from tests.parity import upstream
from tests.parity.hub import in_a_process
from tests.parity.malice import Payload, zipped
from vocos_onnx import EncodecONNX, EncoderConfig, VocosONNX, load_audio
from vocos_onnx import encoder_network as runtime
from vocos_onnx.dsp.quantizer import fingerprints
from vocos_onnx.dsp.stft import stft
from vocos_onnx.model.bundled import default_model
from vocos_onnx.model.encoder_checkpoint import Geometry
from vocos_onnx_export import CheckpointError, export, export_encodec, modules, seanet_graph
from vocos_onnx_export.graph import attach_metadata
from vocos_onnx_train.checkpoint import write_checkpoint
from vocos_onnx_train.config import load_config
from vocos_onnx_train.generator import Generator

Config = dict[str, Any]
State = dict[str, Tensor]

# Largest difference allowed in the embeddings, relative to their peak. Measured for EnCodec, large and small: 1.7e-6.
TOLERANCE = 5e-6
# Measured: 1.4e-6. The codec of train/ uses the phase of every bin; a bin with almost no energy raised it to 7e-6.
TRAINED_TOLERANCE = 1e-5
# Codes may differ only where two entries are almost equally near; the margin is relative to the squared distance.
EQUAL_CODES, NEAR_TIE = 0.999, 1e-4

EDGES = (1, 2, 7, 8, 40, 319, 320, 321, 2240, 7999, 24_000)
AT_CHUNKS = (95_999, 96_000, 96_001, 96_320, 100_321, 240_000)  # the runtime encodes 300 frames of 320 samples at once
AT_CHUNKS_OF_TWO = (48_000, 48_001, 96_001, 100_321)  # 150 frames at once for two items
CLIPS = "VOCOS_CLIPS"
RATE = 24_000
COMMIT_1, COMMIT_2 = "1" * 40, "2" * 40

SMALL: Config = {"num_filters": 2, "hidden_size": 16, "target_bandwidths": [0.75, 1.5, 3.0]}
GEOMETRIES: dict[str, Config] = {
    "small": {},
    "everything else": {
        "sampling_rate": 16_000,
        "target_bandwidths": [16.0, 32.0, 64.0],
        "num_residual_layers": 2,
        "dilation_growth_rate": 3,
        "upsampling_ratios": [4, 2],
        "kernel_size": 5,
        "last_kernel_size": 3,
        "residual_kernel_size": 5,
        "num_filters": 4,
        "compress": 4,
        "num_lstm_layers": 1,
        "use_conv_shortcut": False,
        "codebook_size": 256,
    },
    "odd strides, even kernels": {
        "target_bandwidths": [2.5, 5.0, 9.5],
        "upsampling_ratios": [7, 5, 3],
        "kernel_size": 4,
        "last_kernel_size": 2,
        "residual_kernel_size": 2,
        "num_lstm_layers": 3,
    },
    "kernels of one, a stride of one": {
        "target_bandwidths": [6.0, 12.0, 24.0],
        "kernel_size": 1,
        "residual_kernel_size": 1,
        "upsampling_ratios": [8, 1, 5],
    },
    "bandwidths at the edge of rounding": {
        "sampling_rate": 16_000,
        "target_bandwidths": [0.8, 1.6, 2.4],
        "upsampling_ratios": [8, 5, 4],
        "last_kernel_size": 32,
        "codebook_size": 256,
    },
    "long reach": {"num_residual_layers": 3, "dilation_growth_rate": 3, "residual_kernel_size": 7, "compress": 1},
}


def recordings() -> list[str]:
    """Names of the clips in the folder VOCOS_CLIPS; if that is not set, of the bundled tokens."""
    if CLIPS not in os.environ:
        return sorted(path.name for path in default_model().parent.glob("speech_*.npz"))
    kinds = {f".{kind.lower()}" for kind in soundfile.available_formats()}
    names = sorted(path.name for path in Path(os.environ[CLIPS]).iterdir() if path.suffix.lower() in kinds)
    assert names, f"{os.environ[CLIPS]} has no audio"
    return names


@cache
def recording(name: str) -> np.ndarray:
    """A clip as mono audio at 24 kHz; bundled tokens are decoded by their codec."""
    if CLIPS in os.environ:
        return load_audio(Path(os.environ[CLIPS]) / name, RATE)
    with np.load(default_model().parent / name) as archive:
        return VocosONNX(threads=1).decode(archive["tokens"])


def noise(batch: int, samples: int) -> np.ndarray:
    return np.random.default_rng([1, samples]).normal(0, 0.1, (batch, samples)).astype(np.float32)


def strengthen(encoder: nn.Module) -> None:
    """Set a SEANet's weights such that every layer matters and the signal keeps about its level.

    In a fresh network the audio changes the embeddings by only a few hundredths of what the biases add, and weight
    norm's g equals the norm of its v.
    """
    for name, parameter in encoder.named_parameters():
        kind = name.rpartition(".")[2]
        if "lstm" in name:
            parameter.data *= 3
        elif kind == "bias":
            parameter.data = 0.05 * torch.randn_like(parameter)
        elif kind in ("weight_g", "original0"):
            parameter.data = 1.2 + 0.4 * torch.randn_like(parameter)
        else:
            parameter.data = torch.randn_like(parameter)


@torch.inference_mode()
def fill_codebooks(tables: list[Tensor], vectors: Tensor) -> None:
    """Fill codebooks with random entries distributed like the vectors (N, C), then like their residuals."""
    residual = vectors.double()
    for table in tables:
        mean, spread = residual.mean(0), torch.linalg.cholesky(residual.T.cov() + 1e-9 * torch.eye(residual.shape[1]))
        table.copy_(mean + 0.5 * torch.randn(table.shape, dtype=torch.double) @ spread.T)
        residual -= table[torch.cdist(residual, table.double()).argmin(1)]


@torch.inference_mode()
def embed(encoder: nn.Module, audio: np.ndarray) -> np.ndarray:
    """Encode audio (B, N) with the encoder of encodec or transformers: embeddings (B, C, T)."""
    return encoder(torch.from_numpy(audio)[:, None]).numpy()


def check(given: np.ndarray, expected: np.ndarray, tolerance: float = TOLERANCE) -> None:
    """Asserts equality within a tolerance relative to the peak."""
    assert given.dtype == np.float32
    assert given.shape == expected.shape
    peak = np.abs(expected).max()
    assert peak > 0.01, "silence proves nothing"
    difference = np.abs(given - expected).max() / peak
    assert difference <= tolerance


@dataclass(frozen=True)
class Codes:
    """How many codes were compared, how many differed, and the largest margin among those."""

    compared: int = 0
    differ: int = 0
    margin: float = 0.0

    def __add__(self, other: Codes) -> Codes:
        return Codes(self.compared + other.compared, self.differ + other.differ, max(self.margin, other.margin))

    @property
    def few(self) -> bool:
        return self.differ <= max(1, (1 - EQUAL_CODES) * self.compared)


def check_codes(given: np.ndarray, expected: np.ndarray, embeddings: np.ndarray, codebooks: np.ndarray) -> Codes:
    """Asserts that codes (K, B, T) differ only by near-ties.

    After the first difference in a frame the residuals differ, so the later codes of that frame are not compared.
    """
    assert given.dtype == np.int64
    assert given.shape == expected.shape
    count = len(given)
    given, expected = given.reshape(count, -1), expected.reshape(count, -1)
    differs = given != expected
    first = np.where(differs.any(axis=0), differs.argmax(axis=0), count)
    compared = int(np.minimum(first + 1, count).sum())
    frames = np.flatnonzero(first < count)
    vectors = embeddings.transpose(0, 2, 1).reshape(given.shape[1], -1).astype(np.float64)
    worst = 0.0
    for frame in frames:
        level = first[frame]
        residual = vectors[frame] - sum(
            (codebooks[i][given[i, frame]].astype(np.float64) for i in range(level)), np.zeros(vectors.shape[1])
        )
        ours, theirs = (
            np.square(residual - codebooks[level][codes[level, frame]].astype(np.float64)).sum()
            for codes in (given, expected)
        )
        worst = max(worst, float(abs(ours - theirs) / min(ours, theirs)))
    assert worst < NEAR_TIE
    return Codes(compared, len(frames), worst)


def quiet_export(checkpoint: str | Path, output: Path, **kwargs: Any) -> EncoderConfig:
    return export_encodec(str(checkpoint), output, report=lambda line: None, **kwargs)


def verify_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the export's verification, which is slow at full size and tested elsewhere."""
    monkeypatch.setattr(export_module, "LENGTHS", (1,))
    monkeypatch.setattr(export_module, "CHUNK", 1)


def open_encoder(path: Path) -> EncodecONNX:
    return EncodecONNX(path, providers=["CPUExecutionProvider"], threads=1)


# EnCodec 24 kHz itself


@dataclass(frozen=True)
class Pair:
    """One checkpoint with random weights: the original model, and its export in EncodecONNX."""

    model: Any
    checkpoint: Path
    written: EncoderConfig
    ours: EncodecONNX


def encodec_24khz() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old form of weight norm is deprecated
        return encodec.EncodecModel.encodec_model_24khz(pretrained=False)


@pytest.fixture(scope="session")
def meta(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """encodec's model, and its export from a state dict like Meta's."""
    folder = tmp_path_factory.mktemp("meta")
    torch.manual_seed(0)
    model = encodec_24khz()
    strengthen(model.encoder)
    speech = np.concatenate([recording(name) for name in recordings()[:3]])
    vectors = embed(model.encoder, speech[None])[0].T
    fill_codebooks([layer._codebook.embed for layer in model.quantizer.vq.layers], torch.from_numpy(vectors))
    checkpoint = folder / "encodec.th"
    torch.save(model.state_dict(), checkpoint)
    written = quiet_export(checkpoint, folder / "encoder.onnx")
    return Pair(model, checkpoint, written, open_encoder(folder / "encoder.onnx"))


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        *itertools.product((1, 2), EDGES),
        *((1, samples) for samples in AT_CHUNKS),
        *((2, samples) for samples in AT_CHUNKS_OF_TWO),
    ],
)
def test_embeddings(batch: int, samples: int, meta: Pair) -> None:
    audio = noise(batch, samples)
    given = meta.ours.embed(audio, RATE)
    assert given.shape == (batch, 128, -(-samples // 320))
    check(given, embed(meta.model.encoder, audio))


@torch.inference_mode()
def meta_codes(model: Any, audio: np.ndarray, bandwidth: float) -> np.ndarray:
    """encodec's codes of audio (B, N), as (K, B, T)."""
    model.set_target_bandwidth(bandwidth)
    ((codes, scale),) = model.encode(torch.from_numpy(audio)[:, None])
    assert scale is None
    return codes.transpose(0, 1).numpy()


def test_codes_of_recordings(meta: Pair) -> None:
    """Covers every bandwidth: a lower one uses the first codebooks of 24 kbps, see test_codes_at_a_bandwidth."""
    counts = meta.ours.config.codebooks_per_bandwidth
    assert counts == (2, 4, 8, 16, 32)
    totals = {count: Codes() for count in counts}
    for name in recordings():
        audio = recording(name)[None]
        expected = meta_codes(meta.model, audio, 24.0)
        given = meta.ours.encode(audio, RATE, 24.0)
        assert len(given) == 32
        assert min(len(np.unique(row)) for row in given) > 50, "equal codes would prove nothing"
        embeddings = meta.ours.embed(audio, RATE)
        for count in counts:
            codes = check_codes(given[:count], expected[:count], embeddings, meta.ours.codebooks)
            totals[count] += codes
        print(f"{name}: {codes.differ} of {given.size} codes differ, by a margin of {codes.margin:.1e} at most")
    for count, codes in totals.items():
        print(f"{count} codebooks: {codes}")
        assert codes.few


def test_codes_at_a_bandwidth(meta: Pair) -> None:
    """Each bandwidth gives the first codes of 24 kbps, as many as upstream; a batch gives the codes of its rows."""
    audio = recording(recordings()[0])[: 2 * 16_000].reshape(2, -1)
    every = meta.ours.encode(audio, RATE, 24.0)
    every_expected = meta_codes(meta.model, audio, 24.0)
    embeddings = meta.ours.embed(audio, RATE)
    for bandwidth, count in zip((1.5, 3.0, 6.0, 12.0, 24.0), (2, 4, 8, 16, 32), strict=True):
        expected = meta_codes(meta.model, audio, bandwidth)
        given = meta.ours.encode(audio, RATE, bandwidth)
        assert given.shape == (count, 2, 50)
        assert np.array_equal(given, every[:count])
        assert np.array_equal(expected, every_expected[:count])
        assert check_codes(given, expected, embeddings, meta.ours.codebooks).few
    assert np.array_equal(meta.ours.encode(audio, RATE), every[:8]), "by default 6 kbps"
    for row in range(2):
        alone = meta.ours.encode(audio[row], RATE, 24.0)[:, None]
        assert check_codes(alone, every[:, row : row + 1], embeddings[row : row + 1], meta.ours.codebooks).few


def test_metadata(meta: Pair) -> None:
    assert meta.ours.config == meta.written
    tables = [layer._codebook.embed.numpy().astype("<f4") for layer in meta.model.quantizer.vq.layers]
    assert np.array_equal(meta.ours.codebooks, np.stack(tables))
    fingerprints = [hashlib.sha256(np.stack(tables[: k + 1]).tobytes()).hexdigest() for k in range(32)]
    source = meta.written.source
    assert (source.name, source.revision) == ("encodec.th", "")
    assert source.sha256 == hashlib.sha256(meta.checkpoint.read_bytes()).hexdigest()
    assert meta.written == EncoderConfig(
        codec="encodec_24khz",
        input="audio",
        sample_rate=24_000,
        n_fft=0,
        hop_length=320,
        channels=128,
        left_context=2,
        right_context=0,
        codebook_size=1024,
        bandwidths=(1.5, 3.0, 6.0, 12.0, 24.0),
        codebooks_per_bandwidth=(2, 4, 8, 16, 32),
        codebooks_sha256=tuple(fingerprints),
        source=source,
    )


# The layout of facebook/encodec_24khz


def build(**config: Any) -> EncodecModel:
    """transformers' model with random weights, by default in the geometry of facebook/encodec_24khz."""
    torch.manual_seed(0)
    model = EncodecModel(EncodecConfig(**config)).eval()
    strengthen(model.encoder)
    vectors = embed(model.encoder, noise(1, 200_000))[0].T
    fill_codebooks([layer.codebook.embed for layer in model.quantizer.layers], torch.from_numpy(vectors))
    return model


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with config.json and model.safetensors of a narrow model; tests only read it."""
    folder = tmp_path_factory.mktemp("layout") / "small"
    build(**SMALL).save_pretrained(folder)
    return folder


def check_model(model: EncodecModel, path: Path, lengths: tuple[int, ...], batches: tuple[int, ...] = (1, 2)) -> None:
    """Asserts that embeddings of every length and batch, and the codes of the longest, equal those of transformers."""
    ours, config = open_encoder(path), model.config
    assert ours.config.bandwidths == tuple(config.target_bandwidths)
    assert (ours.sample_rate, ours.hop_length) == (config.sampling_rate, config.hop_length)
    assert (ours.config.channels, ours.config.codebook_size) == (config.hidden_size, config.codebook_size)
    for batch in batches:
        for samples in lengths:
            audio = noise(batch, samples)
            expected, given = embed(model.encoder, audio), ours.embed(audio, ours.sample_rate)
            check(given, expected)
        total = Codes()
        for bandwidth in config.target_bandwidths:
            with torch.inference_mode():  # as model.encode does, but without running the network each time
                expected_codes = model.quantizer.encode(torch.from_numpy(expected), bandwidth).numpy()
            codes = ours.encode(audio, ours.sample_rate, bandwidth)
            total += check_codes(codes, expected_codes, given, ours.codebooks)
        assert total.few
        assert len(np.unique(codes)) > 0.2 * config.codebook_size, "equal codes would prove nothing"


def test_transformers(tmp_path: Path) -> None:
    model, folder = build(), tmp_path / "facebook"
    model.save_pretrained(folder)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    config = quiet_export(folder, tmp_path / "encoder.onnx")
    assert config.source.name == "facebook"
    assert config.source.sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert config.codebooks_per_bandwidth == (2, 4, 8, 16, 32)
    check_model(model, tmp_path / "encoder.onnx", (1, 320, 321, 2240, 24_000))


@pytest.mark.parametrize("name", GEOMETRIES)
def test_geometry(name: str, tmp_path: Path) -> None:
    model = build(**{**SMALL, **GEOMETRIES[name]})
    model.save_pretrained(tmp_path / "checkpoint")
    quiet_export(tmp_path / "checkpoint", tmp_path / "encoder.onnx")
    hop = model.config.hop_length
    lengths = (1, 2, 7, 8, 40, hop - 1, hop, hop + 1, 7 * hop, 299 * hop + 1, 300 * hop + 1, 660 * hop + hop // 2)
    check_model(model, tmp_path / "encoder.onnx", lengths)
    check_model(model, tmp_path / "encoder.onnx", (95 * hop + 1,), (12,))


def same_encoder(one: Path, other: Path) -> bool:
    """Whether two exports have the same embeddings up to rounding, the same codebooks and the same description."""
    a, b = open_encoder(one), open_encoder(other)
    x, y = (encoder.embed(noise(1, 5000), RATE) for encoder in (a, b))
    return (
        np.allclose(x, y, rtol=0, atol=TOLERANCE * np.abs(x).max())
        and np.array_equal(a.codebooks, b.codebooks)
        and {**vars(a.config), "source": None} == {**vars(b.config), "source": None}
    )


def rename(state: State, names: dict[str, str]) -> State:
    """The same tensors, with every old substring of the keys replaced by the new one."""
    renamed = {}
    for key, value in state.items():
        for old, new in names.items():
            key = key.replace(old, new)
        renamed[key] = value
    return renamed


OLDER = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


def test_older_names_of_weight_norm(small: Path, tmp_path: Path) -> None:
    """Files on the hub have weight_g and weight_v; transformers now writes parametrizations. Both must be read."""
    state = safetensors.torch.load_file(small / "model.safetensors")
    older = rename(state, OLDER)
    assert sum("weight_g" in key for key in older) == sum("original0" in key for key in state) > 10
    folder = tmp_path / "older"
    folder.mkdir()
    shutil.copy(small / "config.json", folder)
    safetensors.torch.save_file(older, folder / "model.safetensors")
    quiet_export(small, tmp_path / "new.onnx")
    quiet_export(folder, tmp_path / "old.onnx")
    assert same_encoder(tmp_path / "new.onnx", tmp_path / "old.onnx")


def test_other_forms_of_the_layout(small: Path, tmp_path: Path) -> None:
    """The path of model.safetensors itself works, and so does a folder with only pytorch_model.bin."""
    quiet_export(small, tmp_path / "folder.onnx")
    written = quiet_export(small / "model.safetensors", tmp_path / "file.onnx")
    assert written.source.name == "model.safetensors"
    assert same_encoder(tmp_path / "folder.onnx", tmp_path / "file.onnx")
    folder = tmp_path / "bin"
    folder.mkdir()
    shutil.copy(small / "config.json", folder)
    torch.save(safetensors.torch.load_file(small / "model.safetensors"), folder / "pytorch_model.bin")
    written = quiet_export(folder, tmp_path / "bin.onnx")
    assert written.source.sha256 == hashlib.sha256((folder / "pytorch_model.bin").read_bytes()).hexdigest()
    assert same_encoder(tmp_path / "folder.onnx", tmp_path / "bin.onnx")


def test_a_config_of_defaults_is_encodec_24khz(meta: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta's state dict beside a config.json that gives only the model type is read as EnCodec 24 kHz."""
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text('{"model_type": "encodec"}')
    shutil.copy(meta.checkpoint, tmp_path / "checkpoint" / "pytorch_model.bin")
    verify_little(monkeypatch)
    written = quiet_export(tmp_path / "checkpoint", tmp_path / "encoder.onnx")
    assert {**vars(written), "source": None} == {**vars(meta.written), "source": None}
    audio = noise(1, 5000)
    assert np.array_equal(open_encoder(tmp_path / "encoder.onnx").embed(audio, RATE), meta.ours.embed(audio, RATE))


def test_weights_in_float64(small: Path, tmp_path: Path) -> None:
    state = safetensors.torch.load_file(small / "model.safetensors")
    folder = tmp_path / "double"
    folder.mkdir()
    shutil.copy(small / "config.json", folder)
    safetensors.torch.save_file({key: value.double() for key, value in state.items()}, folder / "model.safetensors")
    quiet_export(small, tmp_path / "single.onnx")
    quiet_export(folder, tmp_path / "double.onnx")
    assert same_encoder(tmp_path / "single.onnx", tmp_path / "double.onnx")


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_weights_in_half_precision(dtype: torch.dtype, small: Path, tmp_path: Path) -> None:
    """Weight norm is folded in float32, as transformers does after loading."""
    state = safetensors.torch.load_file(small / "model.safetensors")
    folder = tmp_path / "half"
    folder.mkdir()
    shutil.copy(small / "config.json", folder)
    safetensors.torch.save_file({key: value.to(dtype) for key, value in state.items()}, folder / "model.safetensors")
    quiet_export(folder, tmp_path / "half.onnx")
    model = EncodecModel.from_pretrained(folder, dtype=torch.float32).eval()
    audio = noise(1, 5000)
    check(open_encoder(tmp_path / "half.onnx").embed(audio, RATE), embed(model.encoder, audio))


# The hub


def test_hub_then_its_cache(small: Path, tmp_path: Path) -> None:
    other, older, empty = tmp_path / "other", tmp_path / "older", tmp_path / "empty"
    build(**{**SMALL, "last_kernel_size": 3}).save_pretrained(other)
    for folder in (older, empty):
        folder.mkdir()
        shutil.copy(small / "config.json", folder)
    torch.save(safetensors.torch.load_file(small / "model.safetensors"), older / "pytorch_model.bin")
    hub = Hub(
        {
            "acme/encodec": {COMMIT_1: small, COMMIT_2: other},
            "acme/older": {COMMIT_1: older},
            "acme/empty": {COMMIT_1: empty},
        },
        {
            "acme/encodec": {"main": COMMIT_2, "v1": COMMIT_1},
            "acme/older": {"main": COMMIT_1},
            "acme/empty": {"main": COMMIT_1},
        },
    )
    outputs = tmp_path / "outputs"
    outputs.mkdir()

    def case(name: str, output: str, **revision: str) -> dict[str, str]:
        return {"checkpoint": f"acme/{name}", "output": str(outputs / f"{output}.onnx"), **revision}

    def digest(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    good = [case("encodec", "tag", revision="v1"), case("encodec", "main"), case("older", "older")]
    bad = [case("absent", "absent"), case("encodec", "v9", revision="v9"), case("empty", "empty")]
    with hub.serve() as url:
        found = in_a_process("export_encodec", [*good, *bad], tmp_path / "home", HF_ENDPOINT=url)
    expected = [
        ["acme/encodec", COMMIT_1, digest(small / "model.safetensors")],
        ["acme/encodec", COMMIT_2, digest(other / "model.safetensors")],
        ["acme/older", COMMIT_1, digest(older / "pytorch_model.bin")],
    ]
    assert found[:3] == expected
    for (kind, message), match in zip(
        found[3:],
        (
            r"cannot get acme/absent from the hub \(RepositoryNotFoundError: .*If you meant a local folder",
            r"cannot get acme/encodec at revision v9 from the hub \(RevisionNotFoundError: ",
            r"cannot get acme/empty from the hub \(\w*EntryNotFoundError: ",
        ),
        strict=True,
    ):
        assert kind == "FileNotFoundError"
        assert re.match(match, message), message
    assert sorted(path.name for path in outputs.iterdir()) == ["main.onnx", "older.onnx", "tag.onnx"]
    for output, source in zip(("tag", "main", "older"), expected, strict=True):
        written = open_encoder(outputs / f"{output}.onnx").config.source
        assert [written.name, written.revision, written.sha256] == source
    quiet_export(small, tmp_path / "local.onnx")
    assert same_encoder(outputs / "tag.onnx", tmp_path / "local.onnx")
    assert same_encoder(outputs / "older.onnx", tmp_path / "local.onnx")
    assert not same_encoder(outputs / "main.onnx", tmp_path / "local.onnx")

    # the server has stopped: downloads come from the cache
    assert (
        in_a_process("export_encodec", good[:2], tmp_path / "home", HF_ENDPOINT=url, HF_HUB_OFFLINE="1") == expected[:2]
    )


# The codec of train/


@dataclass(frozen=True)
class Trained:
    """A codec as train/ would write it, with its encoder and decoder exported."""

    codec: Generator
    folder: Path
    encoder: Path
    decoder: Path
    written: EncoderConfig

    @torch.inference_mode()
    def encode(self, audio: np.ndarray, count: int) -> Tensor:
        extractor = self.codec.feature_extractor
        return extractor.quantizer.encode(extractor.encoder(torch.from_numpy(audio)))[:count]

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> np.ndarray:
        books = self.codec.feature_extractor.quantizer.codebooks
        features = torch.stack([book[c] for book, c in zip(books, codes, strict=False)]).sum(0).transpose(1, 2)
        bandwidth_id = torch.tensor((2, 4, 8, 16).index(len(codes)))
        return self.codec.head.to_waveform(self.codec.head(self.codec.backbone(features, bandwidth_id))).numpy()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    path = Path(vocos_onnx_train.__file__).parent / "configs" / "bundled-codec-1.yaml"
    config = load_config(path, train="none", valid="none")
    config.model["backbone"]["init_args"] |= {"dim": 16, "intermediate_dim": 48, "num_layers": 1}
    config.model["head"]["init_args"]["dim"] = 16
    codec = Generator(config).eval()
    encoder, quantizer = codec.feature_extractor.encoder, codec.feature_extractor.quantizer
    for name, parameter in encoder.named_parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
        elif ".pwconv" in name or name.startswith("out."):
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    norm = encoder.norm
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.3, 3)
    with torch.inference_mode():
        vectors = encoder(torch.from_numpy(noise(1, 320 * 2000)))[0].T
        fill_codebooks(list(quantizer.codebooks), vectors)
    folder = root / "checkpoint"
    write_checkpoint(codec, config, folder)
    written = quiet_export(folder, root / "encoder.onnx")
    export(str(folder), root / "decoder.onnx", report=lambda line: None)
    return Trained(codec, folder, root / "encoder.onnx", root / "decoder.onnx", written)


@pytest.mark.parametrize("batch", (1, 2))
@pytest.mark.parametrize("samples", (1, 319, 320, 321, 5000, 48_001, 95_999, 96_000, 96_001, 96_320, 100_321))
def test_trained_encoder(samples: int, batch: int, trained: Trained) -> None:
    audio, ours = noise(batch, samples), open_encoder(trained.encoder)
    with torch.inference_mode():
        expected = trained.codec.feature_extractor.encoder(torch.from_numpy(audio)).numpy()
    given = ours.embed(audio, RATE)
    assert given.shape == (batch, 64, -(-samples // 320))
    check(given, expected, TRAINED_TOLERANCE)
    for bandwidth, count in zip((1.5, 3.0, 6.0, 12.0), (2, 4, 8, 16), strict=True):
        codes = trained.encode(audio, count).numpy()
        assert check_codes(ours.encode(audio, RATE, bandwidth), codes, given, ours.codebooks).few


def test_trained_encoder_belongs_to_its_decoder(trained: Trained) -> None:
    vocos = VocosONNX(trained.decoder, encoder=trained.encoder, threads=1)
    assert vocos.config.encodec is not None
    assert trained.written.codec == vocos.config.encodec.codec == "vocos_onnx_24khz"
    assert len(trained.written.codebooks_sha256) == 16
    assert trained.written.codebooks_sha256[15] == vocos.config.encodec.codebooks_sha256
    source = trained.written.source
    assert (source.name, source.revision) == ("checkpoint", "")
    assert source.sha256 == hashlib.sha256((trained.folder / "encoder.safetensors").read_bytes()).hexdigest()
    audio = noise(1, 5000)[0]
    for bandwidth, count in ((1.5, 2), (12.0, 16), (None, 8)):
        codes = trained.encode(audio[None], count)
        expected = trained.decode(codes)[0]
        given = vocos(audio, RATE, bandwidth=bandwidth)
        assert given.shape == expected.shape == (16 * 320,)
        assert np.abs(given - expected).max() <= 2e-5 * np.abs(expected).max()


# Checkpoints that are rejected


def refused(
    checkpoint: str | Path, match: str, folder: Path, error: type[Exception] = CheckpointError, **kwargs: Any
) -> str:
    """Asserts that the export raises exactly this error, with a matching message, and writes nothing; returns it."""
    output = folder / "output" / "encoder.onnx"
    output.parent.mkdir()
    with pytest.raises(error) as caught:
        quiet_export(checkpoint, output, **kwargs)
    assert type(caught.value) is error
    message = str(caught.value)
    assert re.search(match, message), message
    assert list(output.parent.iterdir()) == []
    return message


@pytest.fixture
def change(small: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies the small checkpoint after the given functions have changed its config and state dict in place."""

    def make(config: Callable[[Config], Any] = lambda c: None, state: Callable[[State], Any] = lambda s: None) -> Path:
        folder = tmp_path / "checkpoint"
        folder.mkdir()
        new_config = json.loads((small / "config.json").read_text())
        new_state = safetensors.torch.load_file(small / "model.safetensors")
        config(new_config)
        state(new_state)
        (folder / "config.json").write_text(json.dumps(new_config))
        safetensors.torch.save_file(new_state, folder / "model.safetensors")
        return folder

    return make


def test_name_with_another_checksum(meta: Pair, tmp_path: Path) -> None:
    digest = hashlib.sha256(meta.checkpoint.read_bytes()).hexdigest()
    path = tmp_path / "encodec_24khz-00000000.th"
    shutil.copy(meta.checkpoint, path)
    match = rf"encodec_24khz-00000000\.th is damaged .*: its sha256 begins with {digest[:8]}, not 00000000"
    refused(path, match, tmp_path)


def test_name_with_its_checksum(meta: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(meta.checkpoint.read_bytes()).hexdigest()
    path = tmp_path / f"encodec_24khz-{digest[:8]}.th"
    shutil.copy(meta.checkpoint, path)
    verify_little(monkeypatch)
    assert quiet_export(path, tmp_path / "encoder.onnx").source.name == path.name


def test_config_of_48khz(tmp_path: Path) -> None:
    of_48khz = {
        "target_bandwidths": [3.0, 6.0, 12.0, 24.0],
        "sampling_rate": 48_000,
        "audio_channels": 2,
        "normalize": True,
        "chunk_length_s": 1.0,
        "overlap": 0.01,
        "norm_type": "time_group_norm",
        "use_causal_conv": False,
    }
    EncodecModel(EncodecConfig(**{**SMALL, **of_48khz})).save_pretrained(tmp_path / "encodec_48khz")
    match = r"config\.json: audio_channels is 2, expected 1; of the EnCodec models only 24 kHz is supported"
    refused(tmp_path / "encodec_48khz", match, tmp_path)


def test_weights_of_48khz(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = encodec.EncodecModel.encodec_model_48khz(pretrained=False)
    torch.save(model.state_dict(), tmp_path / "encodec_48khz.th")
    match = r"not that of this EnCodec: it lacks codebooks\.16; "
    refused(tmp_path / "encodec_48khz.th", match, tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    (
        ("audio_channels", 2),
        ("normalize", True),
        ("chunk_length_s", 1.0),
        ("norm_type", "time_group_norm"),
        ("use_causal_conv", False),
        ("pad_mode", "constant"),
    ),
)
def test_what_24khz_does_not_have(name: str, value: Any, change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change(lambda c: c.update({name: value}))
    match = rf"config\.json: {name} is {value!r}, expected .*; of the EnCodec models only 24 kHz is supported"
    refused(folder, match, tmp_path)


@pytest.mark.parametrize(
    ("args", "match"),
    (
        ({"model_type": "dac"}, "model_type is 'dac', expected 'encodec'"),
        ({"model_type": None}, "model_type is None, expected 'encodec'"),
        ({"codebook_dim": 64}, "codebook_dim is 64, expected that of hidden_size"),
        ({"hidden_size": 8}, "codebook_dim is 16, expected that of hidden_size"),
        ({"num_filters": "32"}, "num_filters is '32', expected int from 1 to 4096"),
        ({"num_filters": 32.0}, r"num_filters is 32\.0, expected int from 1 to 4096"),
        ({"num_filters": True}, "num_filters is True, expected int from 1 to 4096"),
        ({"num_filters": 0}, "num_filters is 0, expected int from 1 to 4096"),
        ({"num_filters": None}, "num_filters is None, expected int from 1 to 4096"),
        ({"sampling_rate": -24000}, "sampling_rate is -24000, expected int from 1000 to 384000"),
        ({"use_conv_shortcut": 1}, "use_conv_shortcut is 1, expected bool$"),
        ({"upsampling_ratios": []}, r"upsampling_ratios is \[\], expected a list of int from 1 to 64"),
        ({"upsampling_ratios": 320}, "upsampling_ratios is 320, expected a list of int from 1 to 64"),
        ({"upsampling_ratios": [8, 5.0, 4, 2]}, r"upsampling_ratios is \[8, 5\.0, 4, 2\], expected a list of int"),
        ({"upsampling_ratios": [8, 0]}, r"upsampling_ratios is \[8, 0\], expected a list of int"),
        ({"target_bandwidths": ["6"]}, r"target_bandwidths is \['6'\], expected a list of float from 0 to 1000"),
        ({"target_bandwidths": [float("nan")]}, r"target_bandwidths is \[nan\], expected a list of float"),
        ({"target_bandwidths": [float("inf")]}, r"target_bandwidths is \[inf\], expected a list of float"),
        ({"target_bandwidths": [1e300]}, r"target_bandwidths is \[1e\+300\], expected a list of float from 0 to 1000"),
        ({"target_bandwidths": [900.0]}, r"target_bandwidths \(900\.0,\) take 1200 codebooks, expected at most 128"),
        ({"codebook_size": 1}, r"codebook_size is 1, expected int from 2 to 65536"),
        ({"last_kernel_size": 1}, r"last_kernel_size is 1, expected int from 2 to 32"),
        ({"last_kernel_size": 33}, r"last_kernel_size is 33, expected int from 2 to 32"),
        ({"sampling_rate": 500}, r"sampling_rate is 500, expected int from 1000 to 384000"),
        ({"num_filters": 10**12}, r"num_filters is 1000000000000, expected int from 1 to 4096"),
        ({"num_filters": 4096}, r"has layers\.0\.conv\.weight of shape \(2, 1, 7\), expected \(4096, 1, 7\)"),
        ({"upsampling_ratios": [2] * 17}, r"upsampling_ratios is \[2, .*expected a list of int from 1 to 64"),
        ({"num_lstm_layers": 3}, r"lacks layers\.13\.weight_ih_l2; "),
        ({"num_lstm_layers": 1}, r"has the unknown key layers\.13\.weight_ih_l1$"),
        ({"use_conv_shortcut": False}, r"has the unknown key layers\.1\.shortcut\.conv\."),
        ({"num_residual_layers": 2}, r"lacks layers\.2\.block\.1\.conv\."),
        ({"upsampling_ratios": [8, 5, 4]}, "the state dict is not that of this EnCodec"),
        ({"kernel_size": 5}, r"has layers\.0\.conv\.weight of shape \(2, 1, 7\), expected \(2, 1, 5\)$"),
        ({"codebook_size": 512}, r"codebooks\.0 of shape \(1024, 16\), expected \(512, 16\); has codebooks\.1 "),
        ({"target_bandwidths": [24.0]}, r"lacks codebooks\.4; .*\(and 23 more\)"),
    ),
)  # fmt: skip
def test_bad_config(args: Config, match: str, change: Callable[..., Path], tmp_path: Path) -> None:
    refused(change(lambda c: c.update(args)), match, tmp_path)


@pytest.mark.parametrize(
    ("text", "match"),
    (
        (b"{", r"config\.json is not readable JSON: Expecting"),
        (b"", r"config\.json is not readable JSON: Expecting value"),
        (b"model_type: encodec", r"config\.json is not readable JSON"),
        (b"\xff\xfe\x00\x01", r"config\.json is not readable JSON: .*decode"),
        (b"[1, 2]", r"config\.json: model_type is \[1, 2\], expected 'encodec'"),
        (b"{}", r"config\.json: model_type is None, expected 'encodec'"),
    ),
)
def test_config_that_is_none(text: bytes, match: str, change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change()
    (folder / "config.json").write_bytes(text)
    refused(folder, match, tmp_path)


NORM = "parametrizations.weight.original"


@pytest.mark.parametrize(
    ("spoil", "match"),
    (
        (lambda s: s.pop("encoder.layers.0.conv.bias"), r"it lacks layers\.0\.conv\.bias$"),
        (lambda s: s.pop("encoder.layers.13.lstm.weight_hh_l1"), r"it lacks layers\.13\.weight_hh_l1$"),
        (lambda s: s.pop("quantizer.layers.3.codebook.embed"), r"it lacks codebooks\.3$"),
        (lambda s: s.pop(f"encoder.layers.3.conv.{NORM}1"), rf"\.3\.conv\.{NORM}0 but lacks .*{NORM}1$"),
        (lambda s: s.pop(f"encoder.layers.3.conv.{NORM}0"), rf"lacks layers\.3\.conv\.weight; .*{NORM}1$"),
        (
            lambda s: s.update({"encoder.layers.16.conv.bias": torch.ones(1)}),
            r"it has the unknown key layers\.16\.conv\.bias$",
        ),
        (
            lambda s: s.update({"encoder.layers.15.conv.bias": torch.ones(9)}),
            r"it has layers\.15\.conv\.bias of shape \(9,\), expected \(16,\)$",
        ),
        (
            lambda s: s.update({"quantizer.layers.1.codebook.embed": torch.ones(1024, 9)}),
            r"it has codebooks\.1 of shape \(1024, 9\), expected \(1024, 16\)$",
        ),
        (lambda s: s["encoder.layers.6.conv.bias"][-1:].fill_(float("nan")), r"layers\.6\.conv\.bias holds NaN or inf"),
        (lambda s: s[f"encoder.layers.6.conv.{NORM}1"][0].zero_(), r"layers\.6\.conv\.weight holds NaN or infinity"),
        (lambda s: s["encoder.layers.13.lstm.bias_ih_l0"][:1].fill_(float("inf")), r"layers\.13\.bias_ih_l0 holds NaN"),
        (lambda s: s["quantizer.layers.2.codebook.embed"][5].fill_(float("nan")), r"codebooks\.2 holds NaN"),
        (lambda s: [s.pop(key) for key in list(s) if key.startswith("encoder.")], r"lacks .* \(and \d+ more\)$"),
    ),
)  # fmt: skip
def test_bad_weights(spoil: Callable[[State], Any], match: str, change: Callable[..., Path], tmp_path: Path) -> None:
    refused(change(state=spoil), match, tmp_path)


def test_weights_beyond_the_encoder_do_not_matter(small: Path, change: Callable[..., Path], tmp_path: Path) -> None:
    """The export ignores the decoder and the codebooks' training statistics, so they may be missing or broken."""

    def spoil(state: State) -> None:
        for key in list(state):
            if key.startswith("decoder."):
                del state[key]
            elif key.endswith(("cluster_size", "embed_avg", "inited")):
                state[key].fill_(float("nan"))

    quiet_export(small, tmp_path / "whole.onnx")
    quiet_export(change(state=spoil), tmp_path / "part.onnx")
    assert same_encoder(tmp_path / "whole.onnx", tmp_path / "part.onnx")


@pytest.mark.parametrize("name", ("encodec_24khz.th", "pytorch_model.bin"))
@pytest.mark.parametrize("dump", (zipped, pickle.dumps), ids=("torch.save", "pickle"))
@pytest.mark.parametrize("where", ("whole", "beside the weights"))
def test_malicious_pickle_is_not_run(
    where: str, dump: Callable[[Any], bytes], name: str, small: Path, tmp_path: Path
) -> None:
    proof = tmp_path / "proof"
    payload = Payload(f"touch {proof}")
    state = safetensors.torch.load_file(small / "model.safetensors")
    path = tmp_path / "checkpoint" / name
    path.parent.mkdir()
    path.write_bytes(dump(payload if where == "whole" else {**state, "encoder.layers.0.scale": payload}))
    shutil.copy(small / "config.json", path.parent)
    torch.load(path, weights_only=False) if dump is zipped else pickle.loads(path.read_bytes())
    assert proof.exists(), "the payload should work where it is let"
    proof.unlink()
    refused(path, "cannot read .* as weights only, and a checkpoint is not allowed to run code: .+", tmp_path)
    assert not proof.exists()


@pytest.mark.parametrize(
    "name", ("no-such-folder", "no/such/folder", "folder/encodec_24khz-d7cc33bc.th", "a.safetensors")
)
def test_nothing_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    match = rf"no checkpoint {re.escape(name)}: expected Meta's encodec_24khz-d7cc33bc\.th, a folder with config\.json"
    refused(name, match, tmp_path, FileNotFoundError)


def test_folder_without_weights(change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change()
    (folder / "model.safetensors").unlink()
    match = r"checkpoint has neither model\.safetensors nor pytorch_model\.bin"
    refused(folder, match, tmp_path, FileNotFoundError)


def test_folder_without_config(change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change()
    (folder / "config.json").unlink()
    refused(folder, r"no config .*config\.json beside model\.safetensors", tmp_path, FileNotFoundError)


def test_missing_output_folder(small: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere to write encoder\.onnx to"):
        quiet_export(small, tmp_path / "nowhere" / "encoder.onnx")
    assert not (tmp_path / "nowhere").exists()


def test_revision_of_a_local_folder(small: Path, tmp_path: Path) -> None:
    refused(small, "revision 'main' is for hub ids; .*small is not one", tmp_path, revision="main")


def test_damaged_weights(change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change()
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(folder, r"cannot read .*model\.safetensors as weights only", tmp_path)


def copy_trained(trained: Trained, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.folder, tmp_path / "checkpoint"))


def change_file(path: Path, spoil: Callable[[State], Any]) -> None:
    """Load a state dict, change it in place, and write it again."""
    safe = path.suffix == ".safetensors"
    state = safetensors.torch.load_file(path) if safe else torch.load(path)
    spoil(state)
    (safetensors.torch.save_file if safe else torch.save)(state, path)


@pytest.mark.parametrize(
    ("spoil", "match"),
    (
        (lambda s: s.pop("out.weight"), r"it lacks out\.weight$"),
        (lambda s: s.pop("norm.running_var"), r"it lacks norm\.running_var$"),
        (lambda s: s.update({"head.bias": torch.ones(1)}), r"it has the unknown key head\.bias$"),
        (lambda s: s.update({"out.bias": torch.ones(32)}), r"it has out\.bias of shape \(32,\), expected \(64,\)$"),
        (lambda s: s["backbone.norm.weight"][:1].fill_(float("nan")), r"backbone\.norm\.weight holds NaN or infinity"),
        (lambda s: s["norm.running_mean"][:1].fill_(float("inf")), r"norm\.running_mean holds NaN or infinity"),
        (lambda s: s["window"].mul_(1.01), r"encoder\.safetensors: the window is not a Hann window of 1280 samples"),
        (lambda s: s.update({"codebooks.0": torch.ones(1)}), r"it has the unknown key codebooks\.0$"),
    ),
)  # fmt: skip
def test_bad_trained_encoder(spoil: Callable[[State], Any], match: str, trained: Trained, tmp_path: Path) -> None:
    folder = copy_trained(trained, tmp_path)
    change_file(folder / "encoder.safetensors", spoil)
    refused(folder, match, tmp_path)


TABLE = "feature_extractor.codebook_weights"


@pytest.mark.parametrize(
    ("spoil", "match"),
    (
        (lambda s: s.pop(TABLE), r"it lacks feature_extractor\.codebook_weights$"),
        (lambda s: s[TABLE].fill_(float("nan")), r"feature_extractor\.codebook_weights holds NaN or infinity"),
        (lambda s: s.update({TABLE: s[TABLE][:-1]}), r"of shape \(16383, 64\), expected \(16384, 64\)$"),
        (lambda s: s.update({TABLE: s[TABLE][:, :32].clone()}), r"of shape \(16384, 32\), expected \(16384, 64\)$"),
        (lambda s: s.update({TABLE: s[TABLE][: 15 * 1024]}), r"of shape \(15360, 64\), expected \(16384, 64\)$"),
    ),
)  # fmt: skip
def test_bad_codebooks_of_a_trained_codec(
    spoil: Callable[[State], Any], match: str, trained: Trained, tmp_path: Path
) -> None:
    folder = copy_trained(trained, tmp_path)
    change_file(folder / "pytorch_model.bin", spoil)
    refused(folder, match, tmp_path)


def test_trained_codec_in_half_precision(trained: Trained, tmp_path: Path) -> None:
    folder = copy_trained(trained, tmp_path)
    halve = {torch.float32: torch.float16}
    change_file(
        folder / "encoder.safetensors", lambda s: s.update({k: v.to(halve.get(v.dtype, v.dtype)) for k, v in s.items()})
    )
    quiet_export(folder, tmp_path / "encoder.onnx")


@pytest.mark.parametrize("name", ("config.yaml", "pytorch_model.bin"))
def test_trained_codec_that_is_not_whole(name: str, trained: Trained, tmp_path: Path) -> None:
    folder = copy_trained(trained, tmp_path)
    (folder / name).unlink()
    match = rf"has an encoder\.safetensors but no {name}, which the training writes too"
    refused(folder, match, tmp_path, FileNotFoundError)


@pytest.mark.parametrize(
    ("config", "match"),
    (
        ("mel-center", "the config is that of a mel model: it has no encoder"),
        ("encodec", "the codec is 'encodec_24khz', expected 'vocos_onnx_24khz'"),
    ),
)
def test_another_models_config_beside_the_encoder(config: str, match: str, trained: Trained, tmp_path: Path) -> None:
    folder = copy_trained(trained, tmp_path)
    (folder / "config.yaml").write_text(yaml.safe_dump(upstream.CONFIGS[config]))
    refused(folder, match, tmp_path)


def test_vocos_checkpoint_without_an_encoder(tmp_path: Path) -> None:
    """For the folder of a vocoder, the error names the missing file."""
    model = upstream.build(upstream.SMALL["tiny"])
    folder = upstream.save(model, upstream.SMALL["tiny"], tmp_path / "checkpoint")
    refused(folder, r"no config .*config\.json beside pytorch_model\.bin", tmp_path, FileNotFoundError)


# The verification


Graph = seanet_graph.SEANetGraph


def _nothing(self: Any, x: str) -> str:
    return self.op("Mul", x, self.constant(0, np.float32))


def _reflect_nothing(side: str) -> Callable[[pytest.MonkeyPatch], None]:
    reflect = getattr(Graph, side)

    def spoil(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Graph, side, lambda self, x, count: _nothing(self, reflect(self, x, count)))

    return spoil


def _repeat_the_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the audio is shorter than the padding, repeats the nearest sample instead of adding zeros."""
    take = Graph.take
    monkeypatch.setattr(
        Graph, "take", lambda self, x, index, valid: take(self, x, index, self.op("Equal", index, index))
    )


def _gates_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Graph, "_gates", staticmethod(lambda value: value))


def _nan(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = Graph.conv

    def spoil(self: Any, *args: Any, **kwargs: Any) -> str:
        return self.op("Mul", conv(self, *args, **kwargs), self.constant(np.nan, np.float32))

    monkeypatch.setattr(Graph, "conv", spoil)


def _short_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Geometry, "left_context", property(lambda self: 1))


def _forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resets the LSTM in every chunk of a long recording."""
    lstm = Graph.lstm

    def forget(self: Any, x: str, layer: nn.LSTM, state: str, next_state: str) -> str:
        y = lstm(self, x, layer, state, "state")
        self.op("Mul", "state", self.constant(0, np.float32), name=next_state)
        return y

    monkeypatch.setattr(Graph, "lstm", forget)


def _no_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides the frames before each chunk from the last convolution."""
    op = Graph.op

    def spoil(self: Any, kind: str, *inputs: str, **kwargs: Any) -> Any:
        if "history" in inputs:
            nothing = op(self, "Mul", "history", self.constant(0, np.float32))
            inputs = tuple(nothing if name == "history" else name for name in inputs)
        return op(self, kind, *inputs, **kwargs)

    monkeypatch.setattr(Graph, "op", spoil)


@pytest.mark.parametrize(
    ("spoil", "match"),
    (
        (_reflect_nothing("reflect_right"), r"differs from torch by .* \(batch \d, (1|321|24001|\d+123) samples\)"),
        (_reflect_nothing("reflect_left"), r"differs from torch by"),
        (_repeat_the_edge, r"differs from torch by .* \(batch \d, (1|319|320|321) samples\)"),
        (_gates_of_torch, r"differs from torch by"),
        (_nan, r"differs from torch by nan \(batch 1, 1 samples\)"),
        (_short_context, r"differs from torch by .* \(batch \d, \d+ samples\)"),
        (_forgetful, r"differs from torch by .* \(batch \d, \d+ samples\)"),
        (_no_history, r"differs from torch by .* \(batch \d, \d+ samples\)"),
    ),
)  # fmt: skip
def test_verification_that_fails(
    spoil: Callable[[pytest.MonkeyPatch], None],
    match: str,
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil(monkeypatch)
    assert "encoder.onnx was not written" in refused(small, match, tmp_path)


@pytest.mark.parametrize("name", ("stft", "context"))
def test_verification_of_a_trained_encoder_that_fails(
    name: str, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "stft":
        monkeypatch.setattr(runtime, "stft", lambda *args: stft(*args).conj())
    else:
        monkeypatch.setattr(modules.STFTEncoder, "context", property(lambda self: 3))
    refused(trained.folder, "the exported encoder differs from torch by", tmp_path)


def test_verification_of_the_codebooks(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codebooks that are not those of the checkpoint are detected even if their fingerprint matches."""

    def wrong(proto: Any, config: Any, codebooks: Any) -> Any:
        digests = fingerprints(2 * codebooks.numpy())
        return attach_metadata(proto, dataclasses.replace(config, codebooks_sha256=digests), 2 * codebooks)

    monkeypatch.setattr(seanet_graph, "attach_metadata", wrong)
    refused(small, r"the exported codebooks are not those of .*; .*encoder\.onnx was not written", tmp_path)


def test_failure_leaves_an_existing_output(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "encoder.onnx"
    output.write_bytes(b"what was there")
    with monkeypatch.context() as patch, pytest.raises(CheckpointError):
        _gates_of_torch(patch)
        quiet_export(small, output)
    assert output.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [output]


def test_success_replaces_an_existing_output(small: Path, tmp_path: Path) -> None:
    output = tmp_path / "encoder.onnx"
    output.write_bytes(b"what was there")
    lines: list[str] = []
    export_encodec(str(small), output, report=lines.append)
    assert open_encoder(output).config.source.name == "small"
    assert list(tmp_path.iterdir()) == [output]
    assert re.search(r"largest difference .* relative to the peak: \d\.\de-0\d", lines[0])
    assert f"wrote {output}" in lines[1]
