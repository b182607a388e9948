"""One checkpoint in the real vocos package and, exported, in VocosONNX must give the same audio."""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.parity import upstream
from vocos_onnx import VocosONNX
from vocos_onnx.model.checkpoint_config import read_features
from vocos_onnx.model.config import EncodecFeatures
from vocos_onnx_export import CheckpointError, export
from vocos_onnx_export.modules import IMDCTCosHead

# Largest difference allowed, relative to the peak. Measured on the models below with upstream's initialisation, before
# ``strengthen``: features 0, waveforms of an ISTFT head 5e-6, of an IMDCT head 2e-5. The latter is mostly upstream's
# own rounding: it computes the phases of its twiddle factors, up to pi * frame / 2, in float32. With exact factors,
# upstream agreed with VocosONNX to 2e-6.
FEATURES_TOLERANCE = 1e-6
WAVEFORM_TOLERANCE = {"istft": 2e-5, "imdct_symexp": 5e-5, "imdct_cos": 5e-5, "wavenext": 2e-5}
EXACT_TWIDDLES_TOLERANCE = 1e-5

LENGTHS = (1, 2, 3, 27, 28, 200, 1000)
BATCHES = (1, 3)
ALL = {**upstream.CONFIGS, **upstream.SMALL}
ENCODEC = [n for n, c in ALL.items() if c["feature_extractor"]["class_path"].endswith("EncodecFeatures")]
ADANORM = [n for n, c in ALL.items() if "adanorm_num_embeddings" in c["backbone"]["init_args"]]
IMDCT = [n for n, c in ALL.items() if "IMDCT" in c["head"]["class_path"]]
CLIPPED = [n for n, c in ALL.items() if "clip_audio" in c["head"]["init_args"]]
WAVENEXT = [n for n, c in ALL.items() if "WaveNext" in c["head"]["class_path"]]
CENTER = [n for n, c in ALL.items() if c["head"]["init_args"].get("padding") == "center" and n not in WAVENEXT]


@dataclass(frozen=True)
class Case:
    """One input, tokens (K, B, T) if the model takes them, and upstream's audio."""

    tokens: torch.Tensor | None
    features: torch.Tensor
    audio: np.ndarray
    peak: float

    @property
    def codes(self) -> torch.Tensor:
        """The tokens; only for a model that takes them."""
        assert self.tokens is not None
        return self.tokens

    @property
    def given(self) -> torch.Tensor:
        return self.features if self.tokens is None else self.tokens


class Pair:
    """One checkpoint with random weights in both upstream's Vocos and VocosONNX."""

    def __init__(self, name: str, folder: Path) -> None:
        self.config = ALL[name]
        self.model = upstream.build(self.config)
        upstream.strengthen(self.model)
        if name in CLIPPED:  # a level at which many samples, but not all, need clipping
            for parameter in self.model.head.out.parameters():
                parameter.data *= 0.3
        upstream.save(self.model, self.config, folder)
        with pytest.MonkeyPatch.context() as monkeypatch:
            if name in upstream.CONFIGS:  # verifying a large model is slow, and tested elsewhere
                monkeypatch.setattr(sys.modules["vocos_onnx_export.verify"], "LENGTHS", (2,))
            self.written = export(str(folder), folder / "model.onnx", report=lambda line: None)
        self.ours = VocosONNX(folder / "model.onnx", providers=["CPUExecutionProvider"], threads=1)
        self.model.head.clip_audio = False  # see test_upstream_clips_the_wrong_variable
        self.case = lru_cache(maxsize=None)(self._case)

    @cached_property
    def ids(self) -> list[int | None]:
        """Every bandwidth id, or just None if the model has none."""
        return list(range(self.ours.config.num_bandwidth_ids)) or [None]

    def num_codebooks(self, bandwidth_id: int | None) -> int:
        """The number of codebooks of a bandwidth; if the id implies none, 3."""
        assert self.ours.config.encodec is not None
        counts = self.ours.config.encodec.codebooks_per_bandwidth
        return counts[bandwidth_id] if bandwidth_id is not None and bandwidth_id < len(counts) else 3

    def upstream_decode(self, features: torch.Tensor, bandwidth_id: int | None) -> torch.Tensor:
        kwargs = {} if bandwidth_id is None else {"bandwidth_id": torch.tensor([bandwidth_id])}
        return self.model.decode(features, **kwargs)

    def random_input(self, bandwidth_id: int | None, batch: int, frames: int) -> tuple[Any, torch.Tensor]:
        generator = torch.Generator().manual_seed(1000 * frames + 10 * batch + (bandwidth_id or 0))
        if self.ours.config.encodec is not None:
            shape = (self.num_codebooks(bandwidth_id), batch, frames)
            tokens = torch.randint(1024, shape, generator=generator)
            return tokens, self.model.codes_to_features(tokens)
        shape = (batch, self.ours.config.feature_channels, frames)
        return None, torch.rand(shape, generator=generator) * 20 - 16  # log-mels: log(1e-7) is -16

    def _case(self, bandwidth_id: int | None, batch: int, frames: int) -> Case:
        tokens, features = self.random_input(bandwidth_id, batch, frames)
        audio = self.upstream_decode(features, bandwidth_id).numpy()
        return Case(tokens, features, self.clip(audio), np.abs(audio).max())

    def clip(self, audio: np.ndarray) -> np.ndarray:
        return audio.clip(-1, 1) if self.ours.config.clip_audio else audio


@pytest.fixture(scope="session")
def built() -> dict[str, Pair]:
    return {}


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, built: dict[str, Pair]) -> Pair:
    """Builds each pair once for all tests; pytest would rebuild a parametrised fixture for nearly every test."""
    if request.param not in built:
        built[request.param] = Pair(request.param, tmp_path_factory.mktemp(request.param))
    return built[request.param]


def pairs(names: Iterable[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("pair", list(names), indirect=True)


def check(ours: np.ndarray, expected: np.ndarray, tolerance: float, peak: float | None = None) -> None:
    """Asserts equality within a tolerance relative to the peak, by default that of ``expected``."""
    assert ours.dtype == np.float32
    assert ours.shape == expected.shape
    peak = np.abs(expected).max() if peak is None else peak
    assert peak > 0.01, "silence proves nothing"
    assert np.abs(ours - expected).max() <= tolerance * peak


@pytest.mark.parametrize(
    ("pair", "batch", "frames"),
    [
        (name, batch, frames)
        for name, batch, frames in itertools.product(ALL, BATCHES, LENGTHS)
        if frames > 1 or name not in CENTER  # no samples: see test_one_frame_with_center_padding
    ],
    indirect=["pair"],
)
def test_waveform(pair: Pair, batch: int, frames: int) -> None:
    config = pair.ours.config
    for bandwidth_id in pair.ids:
        case = pair.case(bandwidth_id, batch, frames)
        assert case.audio.std() > 0.02 * np.abs(case.audio).max(), "a click is not audio"
        check(pair.ours.decode(case.given, bandwidth_id), case.audio, WAVEFORM_TOLERANCE[config.head], case.peak)


@pairs(ALL)
def test_length(pair: Pair) -> None:
    """The documented lengths as formulas, so that upstream and we cannot share an error."""
    config, samples = pair.ours.config, pair.case(pair.ids[0], 1, 28).audio.shape[1]
    if config.padding == "center":
        assert samples == 27 * config.hop_length
    else:
        assert samples == 28 * config.hop_length + (config.n_fft - config.hop_length) % 2


@pairs(CENTER)
@pytest.mark.parametrize("batch", BATCHES)
def test_one_frame_with_center_padding(pair: Pair, batch: int) -> None:
    tokens, features = pair.random_input(pair.ids[0], batch, 1)
    if pair.ours.config.head == "istft":
        with pytest.raises(RuntimeError):  # from torch.istft; the message depends on the version
            pair.upstream_decode(features, pair.ids[0])
    else:
        assert pair.upstream_decode(features, pair.ids[0]).shape == (batch, 0)
    audio = pair.ours.decode(features if tokens is None else tokens, pair.ids[0])
    assert audio.dtype == np.float32
    assert audio.shape == (batch, 0)


@pairs(ENCODEC)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("frames", (1, 200))
def test_codes_to_features(pair: Pair, frames: int, batch: int) -> None:
    for num_codebooks in range(1, pair.ours.num_codebooks + 1):
        tokens = torch.randint(1024, (num_codebooks, batch, frames), generator=torch.Generator().manual_seed(frames))
        tokens[:, 0, 0] = torch.tensor([0, 1023]).repeat(num_codebooks)[:num_codebooks]  # first and last entries
        expected = pair.model.codes_to_features(tokens).numpy()
        check(pair.ours.codes_to_features(tokens), expected, FEATURES_TOLERANCE)


@pairs(ENCODEC)
def test_features_route_equals_tokens_route(pair: Pair) -> None:
    for bandwidth_id in pair.ids:
        case = pair.case(bandwidth_id, 3, 28)
        features = pair.ours.codes_to_features(case.codes)
        assert np.array_equal(pair.ours.decode(features, bandwidth_id), pair.ours.decode(case.codes, bandwidth_id))


@pairs(ENCODEC)
def test_layouts(pair: Pair) -> None:
    for bandwidth_id in pair.ids:
        case = pair.case(bandwidth_id, 3, 28)
        expected = pair.ours.decode(case.codes, bandwidth_id)
        transposed = case.codes.transpose(0, 1)
        assert np.array_equal(pair.ours.decode(transposed, bandwidth_id, layout="bkt"), expected)
        features = pair.ours.codes_to_features(case.codes)
        assert np.array_equal(pair.ours.codes_to_features(transposed, layout="bkt"), features)


@pairs(ALL)
def test_two_dimensions_are_one_item(pair: Pair) -> None:
    """2-D input gives 1-D audio, equal to upstream's batch of one."""
    config = pair.ours.config
    for bandwidth_id in pair.ids:
        case = pair.case(bandwidth_id, 1, 28)
        for given in (case.features[0], *([] if case.tokens is None else [case.tokens[:, 0]])):
            audio = pair.ours.decode(given, bandwidth_id)
            check(audio, case.audio[0], WAVEFORM_TOLERANCE[config.head], case.peak)
            assert np.array_equal(audio, pair.ours.decode(case.given, bandwidth_id)[0])


@pairs(sorted(set(ENCODEC) & set(ADANORM)))
def test_bandwidth_id_from_the_number_of_codebooks(pair: Pair) -> None:
    for bandwidth_id in range(len(pair.ours.bandwidths)):
        tokens = pair.case(bandwidth_id, 3, 28).codes
        assert np.array_equal(pair.ours.decode(tokens), pair.ours.decode(tokens, bandwidth_id))


def test_bandwidths_of_official_configs() -> None:
    """2, 4, 8, 16 codebooks imply ids 0, 1, 2, 3; at twice the frame rate, half as many do."""
    for codec, expected in (("encodec_24khz", (2, 4, 8, 16)), ("encodec_48khz", (1, 2, 4, 8))):
        config = {**upstream.CONFIGS["encodec"]["feature_extractor"], "init_args": {"encodec_model": codec}}
        features, _ = read_features({"feature_extractor": config})
        assert isinstance(features, EncodecFeatures)
        assert features.codebooks_per_bandwidth == expected
        assert features.bandwidths == (1.5, 3.0, 6.0, 12.0)


@pairs(ADANORM)
def test_every_bandwidth_id_sounds_different(pair: Pair) -> None:
    """A negative control: with a wrong id, the tests above would fail by far."""
    config = pair.ours.config
    case = pair.case(0, 1, 28)
    audio = [pair.ours.decode(case.given, bandwidth_id) for bandwidth_id in pair.ids]
    for i, one in enumerate(audio):
        for other in audio[i + 1 :]:
            difference = np.abs(one - other).max() / np.abs(one).max()
            assert difference > 1000 * WAVEFORM_TOLERANCE[config.head]


@pairs(ADANORM)
@pytest.mark.parametrize("given", (torch.tensor([1]), torch.tensor(1), np.int64(1), np.array([1])), ids=repr)
def test_bandwidth_id_as_upstream_takes_it(pair: Pair, given: Any) -> None:
    features = pair.case(1, 1, 28).features
    assert np.array_equal(pair.ours.decode(features, bandwidth_id=given), pair.ours.decode(features, bandwidth_id=1))


@pairs(sorted(set(ADANORM) - set(ENCODEC)))
def test_features_need_a_bandwidth_id(pair: Pair) -> None:
    with pytest.raises(ValueError, match="bandwidth_id"):
        pair.ours.decode(pair.case(0, 1, 28).features)


@pairs(sorted(set(ENCODEC) - set(ADANORM)))
def test_no_bandwidth_id_without_adanorm(pair: Pair) -> None:
    assert pair.ours.config.num_bandwidth_ids == 0
    with pytest.raises(ValueError, match="bandwidth_id"):
        pair.ours.decode(pair.case(None, 1, 28).codes, 0)


@pairs(["encodec", "mel-center"])
def test_torch_tensors(pair: Pair) -> None:
    """CPU tensors are accepted directly, with any strides, and give the same audio as numpy arrays."""
    case = pair.case(pair.ids[0], 3, 28)
    for tensor in (case.features, case.tokens):
        if tensor is None:
            continue
        assert tensor.dtype in (torch.float32, torch.int64)
        expected = pair.ours.decode(tensor.numpy(), pair.ids[0])
        assert np.array_equal(pair.ours.decode(tensor, pair.ids[0]), expected)
        strided = tensor.transpose(0, 2).contiguous().transpose(0, 2)
        assert not strided.is_contiguous()
        assert np.array_equal(pair.ours.decode(strided, pair.ids[0]), expected)


@pairs(CLIPPED)
def test_clip_audio(pair: Pair) -> None:
    """Audio is clipped to [-1, 1]; ``Pair`` runs upstream without clip_audio and clips the result."""
    assert pair.ours.config.clip_audio
    case = pair.case(None, 3, 28)
    audio = pair.ours.decode(case.features)
    beyond = np.abs(pair.upstream_decode(case.features, None).numpy()) > 1.001
    assert 0.05 < beyond.mean() < 0.95
    assert (np.abs(audio[beyond]) == 1).all()
    assert (np.abs(audio) <= 1).all()


@pairs(CLIPPED)
def test_upstream_clips_the_wrong_variable(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream returns clipped coefficients instead of audio, so clip_audio cannot be compared with it directly."""
    case = pair.case(None, 3, 28)
    monkeypatch.setattr(pair.model.head, "clip_audio", True)
    returned = pair.upstream_decode(case.features, None)
    assert returned.shape == (3, 28, pair.model.head.out.out_features)
    assert returned.shape != case.audio.shape


@pairs(WAVENEXT)
def test_wavenext_clips(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips as upstream does; the second half of every frame is ten times as loud, so many samples need clipping."""
    case, condition = pair.case(pair.ids[0], 3, 28), pair.ids[0]
    head = copy.deepcopy(pair.model.head)
    head.linear_2.weight.data[pair.ours.hop_length // 2 :] *= 10
    monkeypatch.setattr(pair.model, "head", head)
    unclipped = pair.upstream_decode(case.features, condition).numpy()
    head.clip_audio = True
    expected = pair.upstream_decode(case.features, condition).numpy()
    assert 0.01 < (np.abs(expected) == 1).mean() < 0.95
    monkeypatch.setattr(sys.modules["vocos_onnx_export.verify"], "LENGTHS", (2,))
    upstream.save(pair.model, pair.config, tmp_path)
    export(str(tmp_path), tmp_path / "model.onnx", report=lambda line: None)
    check(VocosONNX(tmp_path / "model.onnx").decode(case.given, condition), expected, 2e-5, np.abs(unclipped).max())


@pairs(WAVENEXT)
def test_wavenext_streams(pair: Pair) -> None:
    """Single and pooled streams give the audio of a whole decode, which is upstream's."""
    if not pair.ours.delay:
        pytest.skip("a network without a state")
    for bandwidth_id in pair.ids:
        case = pair.case(bandwidth_id, 3, 200)
        whole = pair.ours.decode(case.given, bandwidth_id)
        with pair.ours.stream_pool() as pool:
            for item, expected in zip(case.features.numpy(), whole, strict=True):
                chunks = [item[:, i : i + 7] for i in range(0, 200, 7)]
                for stream in (pair.ours.stream(bandwidth_id), pool.open(bandwidth_id)):
                    assert stream.delay_samples == stream.delay * pair.ours.hop_length
                    audio = np.concatenate([*(stream.push(chunk) for chunk in chunks), stream.flush()])
                    check(audio, expected, 1e-5)


@pairs(IMDCT)
def test_imdct_with_exact_twiddles(pair: Pair) -> None:
    """With twiddle factors rounded once, upstream and we agree as closely as for an ISTFT head."""
    inexact = pair.model.head
    frame_len = inexact.imdct.frame_len
    head = pair.model.head = copy.deepcopy(inexact)
    try:
        head.imdct.load_state_dict(IMDCTCosHead(4, frame_len).imdct.state_dict())
        for frames in (2, 200):
            _, features = pair.random_input(pair.ids[-1], 3, frames)
            expected = pair.upstream_decode(features, pair.ids[-1]).numpy()
            peak = np.abs(expected).max()
            check(pair.ours.decode(features, pair.ids[-1]), pair.clip(expected), EXACT_TWIDDLES_TOLERANCE, peak)
    finally:
        pair.model.head = inexact


@pytest.mark.parametrize("frame_len", (1024, 2048, 4096))
@pytest.mark.parametrize("name", ("IMDCTSymExpHead", "IMDCTCosHead"))
def test_long_mdct_frames(name: str, frame_len: int, tmp_path: Path) -> None:
    """Upstream's stored twiddle factors are less exact for longer frames, yet the audio must still agree."""
    config = {
        "feature_extractor": upstream.mel(frame_len // 2, n_fft=frame_len),
        "backbone": upstream.convnext(8),
        "head": upstream.head(name, dim=16, mdct_frame_len=frame_len),
    }
    model = upstream.build(config)
    upstream.save(model, config, tmp_path)
    export(str(tmp_path), tmp_path / "model.onnx", report=lambda line: None)
    features = torch.rand(2, 8, 5) * 20 - 16
    audio = VocosONNX(tmp_path / "model.onnx").decode(features)
    check(audio, model.decode(features).numpy(), 1e-4)


@pytest.mark.parametrize("name", ("IMDCTSymExpHead", "IMDCTCosHead"))
def test_mdct_frame_of_an_odd_number_of_coefficients(name: str, tmp_path: Path) -> None:
    """The export rejects frames not divisible by 4: upstream's inverse MDCT is wrong there and cancels to silence.

    No network can have been trained that way, and our audio would differ from upstream's.
    """
    config = {
        "feature_extractor": upstream.mel(25, n_fft=64),
        "backbone": upstream.convnext(8),
        "head": upstream.head(name, dim=16, mdct_frame_len=50),
    }
    model = upstream.build(config)
    upstream.save(model, config, tmp_path)
    assert model.decode(torch.rand(1, 8, 20)).abs().max() < 1e-3
    with pytest.raises(CheckpointError, match="mdct_frame_len is 50, expected a positive multiple of 4"):
        export(str(tmp_path), tmp_path / "model.onnx", report=lambda line: None)


@pytest.mark.parametrize("gain", (10.0, 50.0))
def test_saturated_head(gain: float, tmp_path: Path) -> None:
    """Magnitudes beyond the clip at 100, even if exp overflows, and phases of many turns decode as upstream's."""
    config = upstream.SMALL["tiny"]
    model = upstream.build(config)
    model.head.out.weight.data *= gain
    upstream.save(model, config, tmp_path)
    export(str(tmp_path), tmp_path / "model.onnx", report=lambda line: None)
    features = torch.rand(2, 3, 50) * 20 - 16
    hidden = model.head.out(model.backbone(features))
    m, p = hidden.chunk(2, dim=-1)
    assert m.max() > (4.6 if gain == 10 else 89)  # ln 100, and the point where exp overflows
    assert p.abs().max() > 10 * gain / 10
    audio = VocosONNX(tmp_path / "model.onnx").decode(features)
    check(audio, model.decode(features).numpy(), 1e-4)


@pairs(ALL)
def test_metadata(pair: Pair) -> None:
    """The description in the file equals the one that ``export`` returned, and matches the config."""
    assert pair.ours.config == pair.written
    head = pair.config["head"]["init_args"]
    assert pair.ours.hop_length == head.get("hop_length", head.get("mdct_frame_len", 0) // 2)
    if pair.ours.config.head == "wavenext":
        assert pair.ours.config.n_fft == pair.ours.hop_length
        assert (pair.ours.config.padding, pair.ours.config.clip_audio) == ("same", True)
    else:
        assert pair.ours.config.n_fft == head.get("n_fft", head.get("mdct_frame_len"))
        assert pair.ours.config.padding == head.get("padding", "same")
    assert pair.ours.config.num_bandwidth_ids == pair.config["backbone"]["init_args"].get("adanorm_num_embeddings", 0)
    assert (pair.ours.sample_rate == 48000) == ("48khz" in str(pair.config))
    if pair.ours.config.encodec is not None:
        assert pair.ours.num_codebooks == pair.model.feature_extractor.num_q
        extractor = pair.model.feature_extractor
        quantizer, frame_rate = extractor.encodec.quantizer, extractor.encodec.frame_rate
        counts = [quantizer.get_num_quantizers_for_bandwidth(frame_rate, b) for b in extractor.bandwidths]
        assert list(pair.ours.config.encodec.codebooks_per_bandwidth) == counts
