"""Converts a Vocos checkpoint to a model file by filling the skeleton of its geometry, and checks the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vocos_onnx.arrays import Float
from vocos_onnx.dsp.quantizer import fingerprints
from vocos_onnx.dsp.stft import PADDINGS, hann_window
from vocos_onnx.messages import shown
from vocos_onnx.model import skeletons
from vocos_onnx.model.checkpoint import CheckpointError, check_finite, open_weights, read_state
from vocos_onnx.model.checkpoint_config import (
    CODEBOOK_SIZE,
    CODEBOOKS,
    Backbone,
    Head,
    ISTFTHead,
    VocosBackbone,
    VocosConfig,
    WaveNextHead,
    check_relatives,
    check_table,
    parse_config,
    read_config,
)
from vocos_onnx.model.config import METADATA_KEY, PRECISIONS, EncodecFeatures, ModelConfig, Quality, Source
from vocos_onnx.model.session import evaluate
from vocos_onnx.model.sherpa import INPUT, SHERPA, check_options, sherpa_metadata, spectrum_of
from vocos_onnx.model.sources import Files
from vocos_onnx.version import __version__

from .calibration import MIN_SNR_DB, Decoder, Score, calibration_items, cut, quality_line, quality_of, ranges_of
from .naming import naming
from .reference import relative_difference, vocos_spectrum

WINDOW = "head.istft.window"
_PARTS = ("backbone.", "head.", CODEBOOKS)
TOLERANCE = 1e-4  # of the spectrum's peak
_FRAMES = 16  # in the check


@dataclass(frozen=True, eq=False)
class _Weights:
    """The weights of a checkpoint, and the model files made from them."""

    name: str  # name of the skeletons
    state: dict[str, Float]
    codebooks: Float | None
    config: ModelConfig

    def model(
        self, form: str, config: ModelConfig, ranges: Mapping[str, tuple[float, float]] | None = None
    ) -> Iterator[bytes]:
        """Yields the model file for a form of the skeleton, piece by piece."""
        return skeletons.filled(
            skeletons.load(self.name, form),
            self.state,
            ranges=ranges,
            metadata=sherpa_metadata(config) if form == skeletons.SPECTRUM else {METADATA_KEY: config.to_json()},
            codebooks=self.codebooks,
            producer_version=__version__,
        )

    def write(
        self, path: Path, form: str, config: ModelConfig, ranges: Mapping[str, tuple[float, float]] | None = None
    ) -> None:
        with path.open("wb") as file:
            file.writelines(self.model(form, config, ranges))


def convert_vocoder(
    files: Files,
    output: Path,
    *,
    precision: str = "float32",
    istft: str = "numpy",
    format: str = "vocos-onnx",
    calibration: Sequence[npt.ArrayLike] | None = None,
    score: Score | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> ModelConfig:
    """Writes a checkpoint of a known geometry as a model file, and checks that file.

    The network in the file is compared, for every bandwidth id, with a numpy network in float64 that uses the
    checkpoint's weights directly (``reference``); an int8 or float16 network is compared with the float32 one on the
    calibration data.

    Args:
        files: the config and the weights.
        output: path to write; an existing file is replaced. After an exception it may be incomplete.
        precision: "float32", "int8" or "float16".
        istft: "numpy", or "graph" to include the inverse STFT in the graph, for GPUs.
        format: "vocos-onnx"; or "sherpa", for sherpa-onnx: a graph of mels (batch, n_mels, frames) -> mag, x and y,
            each (batch, n_fft/2 + 1, frames), in float32 (docs/guides/sherpa.md).
        calibration: tokens (K, T) or features (C, T) of real audio, by default bundled speech, to measure the int8
            ranges and the quality on.
        score: a quality score such as PESQ; see ``quality_of``.
        report: called with each line of the report.

    Returns the config stored in the file.

    Raises:
        ValueError: if precision, istft or format is none of these, or they contradict one another; if sherpa-onnx
            cannot run the model; or if the model cannot decode the calibration data.
        CheckpointError: if config and weights are not those of a supported Vocos, there is no skeleton for the
            geometry, or the file does not compute the same result as the checkpoint's weights.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {shown(precision)}, expected one of {', '.join(PRECISIONS)}")
    if istft not in ("numpy", "graph"):
        raise ValueError(f"istft is {shown(istft)}, expected 'numpy' or 'graph'")
    check_options(format, istft, precision)
    if format == SHERPA and precision == "int8":
        raise ValueError(
            "precision is 'int8' and format 'sherpa', for which no graph is bundled: leave one of --int8 and --format "
            "sherpa out, or convert it with torch: pip install 'vocos-onnx[export]', and vocos-onnx export CHECKPOINT "
            "-o model.onnx --int8 --format sherpa"
        )
    with naming(files):
        weights = _read(files, istft)
    if format == SHERPA:
        with naming(files):
            _write_polar(files.name, weights, output, report)
        return weights.config
    suffix = "-istft" if istft == "graph" else ""
    config = weights.config
    with naming(files):
        weights.write(output, f"float32{suffix}", config)
    original = Decoder(output)
    _check(files.name, _difference(original, weights), report)
    if precision == "float32":
        return config
    items = calibration_items(original, calibration)
    stretches = cut(original, items) if precision == "int8" else []
    del original  # it takes the memory of two models
    ranges = None
    if precision == "int8":
        weights.write(output, skeletons.RANGES, config)
        ranges = ranges_of(stretches, evaluate(output, (stretch.inputs for stretch in stretches)))
    form = f"{precision}{suffix}"
    config = replace(config, precision=precision, quality=Quality(0.0, None, 0.0))
    weights.write(output, form, config, ranges)
    quality = quality_of(Decoder(output).decode, items, config.sample_rate, score)
    report(quality_line(precision, quality))
    if not quality.snr_db >= MIN_SNR_DB:
        raise CheckpointError(
            f"in {precision} the audio of {files.name} is {quality.snr_db:.1f} dB from that of float32, expected "
            f"{MIN_SNR_DB:g} dB or more"
        )
    config = replace(config, quality=quality)
    weights.write(output, form, config, ranges)
    return config


def _write_polar(name: str, weights: _Weights, output: Path, report: Callable[[str], None]) -> None:
    """Writes the model file in sherpa-onnx's layout, and checks it. Raises ValueError if sherpa-onnx cannot run it."""
    weights.write(output, skeletons.SPECTRUM, weights.config)
    mels = _random_mels(weights.config, np.random.default_rng(0))
    (outputs,) = evaluate(output, [{INPUT: mels[None]}])
    expected = vocos_spectrum(weights.state, mels, None)
    _check(name, relative_difference(spectrum_of(outputs)[0], expected), report)


def _check(name: str, difference: float, report: Callable[[str], None]) -> None:
    """Reports how far a spectrum differs from that of ``reference``. Raises CheckpointError if that is too much."""
    report(f"largest difference of the spectrum from float64 arithmetic, relative to the peak: {difference:.1e}")
    if not difference <= TOLERANCE:  # also true for NaN
        raise CheckpointError(
            f"the model made of {name} differs from its weights by {difference:.1e} of the spectrum's peak, "
            f"expected at most {TOLERANCE:g}"
        )


def _read(files: Files, istft: str) -> _Weights:
    with open_weights(files.weights) as weights:
        check_relatives(weights)
    if files.config is None:
        where = f"in the repository {files.name}" if files.revision else f"in {files.weights.parent}/"
        remedy = "" if files.revision else "; copy it from the page of the model"
        raise CheckpointError(
            f"{files.name} has no config, which says what its weights are: expected config.yaml or config.json {where}"
            f"{remedy}"
        )
    config = parse_config(read_config(files.config))
    name = _skeleton(config, istft)
    state, digest = read_state(files.weights, lambda key: key.startswith(_PARTS))
    table = state.pop(CODEBOOKS, None)
    features, codebooks = config.features, None
    if isinstance(features, EncodecFeatures):
        check_table(None if table is None else table.shape, features, config.backbone.input_channels)
        assert table is not None
        codebooks = table.reshape(features.num_codebooks, CODEBOOK_SIZE, -1)
        features = replace(features, codebooks_sha256=fingerprints(codebooks)[-1])
    _check_window(state.pop(WINDOW, None), config.head.n_fft)
    state = _with_layer_scales(_in_torch_layout(state, config.backbone), config.backbone)
    check_finite(state if codebooks is None else {**state, CODEBOOKS: codebooks})
    source = Source(files.name, files.revision, digest, __version__)
    return _Weights(name, state, codebooks, config.described(features, source))


def _skeleton(config: VocosConfig, istft: str) -> str:
    """The name of the skeletons for a geometry. Raises CheckpointError if there are none."""
    backbone, head = config.backbone, config.head
    if isinstance(backbone, VocosBackbone) and isinstance(head, ISTFTHead | WaveNextHead):
        geometry = skeletons.Geometry(
            backbone.input_channels,
            backbone.dim,
            backbone.intermediate_dim,
            backbone.num_layers,
            backbone.num_bandwidths,
            head.n_fft,
            head.hop_length,
            "same" if head.kind == "wavenext" else head.padding,
            head.kind,
        )
        # The padding affects the graph only if that includes the inverse STFT.
        for padding in PADDINGS if istft == "numpy" else (geometry.padding,):
            if (name := skeletons.find(replace(geometry, padding=padding))) is not None:
                return name
    raise CheckpointError(
        f"no graph is bundled for this geometry: {_listed(backbone)}, {_listed(head)}; convert it with torch: "
        "pip install 'vocos-onnx[export]', and vocos-onnx export CHECKPOINT -o model.onnx"
    )


def _listed(part: Backbone | Head) -> str:
    """The class and its arguments, as in a config."""
    arguments = (f"{name} {value}" for name, value in asdict(part).items() if value is not None)
    return f"{type(part).__name__} ({', '.join(arguments)})"


def _check_window(window: Float | None, n_fft: int) -> None:
    """Checks the window, a constant upstream, rounded in half precision. Our exact one is used instead."""
    if window is None:  # the MLX ports omit it
        return
    if window.shape != (n_fft,):
        raise CheckpointError(
            f"{WINDOW} has {window.size} samples, but n_fft is {n_fft} in the config: it is that of another checkpoint"
        )
    if not float(np.abs(window - hann_window(n_fft)).max()) < 5e-3:
        raise CheckpointError(f"{WINDOW} is not the Hann window of {n_fft} samples of vocos 0.1.0")


def _in_torch_layout(state: dict[str, Float], backbone: Any) -> dict[str, Float]:
    """Transposes the kernels of an MLX port from (out, taps, in) to (out, in, taps)."""
    embed = state.get("backbone.embed.weight")
    if embed is None or embed.shape != (backbone.dim, 7, backbone.input_channels) or backbone.input_channels == 7:
        return state
    kernels = [key for key in state if state[key].ndim == 3]
    return {**state, **{key: np.ascontiguousarray(state[key].transpose(0, 2, 1)) for key in kernels}}


def _with_layer_scales(state: dict[str, Float], backbone: Any) -> dict[str, Float]:
    """Adds layer scales of 1 if the config has none: upstream omits them if their initial value is 0 or below."""
    if (backbone.layer_scale_init_value or 1) > 0:
        return state
    ones = np.ones(backbone.dim, np.float32)
    return {**{f"backbone.convnext.{i}.gamma": ones for i in range(backbone.num_layers)}, **state}


def _difference(runtime: Decoder, weights: _Weights) -> float:
    """The largest difference of the spectrum from that of ``reference``, relative to its peak; infinite if not finite.

    Measured on random tokens or mels, for every bandwidth id. ``runtime`` is the model file.
    """
    config, rng, worst = weights.config, np.random.default_rng(0), 0.0
    ids: list[int | None] = list(range(config.num_bandwidth_ids)) or [None]
    for bandwidth_id in ids:
        if config.encodec is not None and weights.codebooks is not None:
            counts = config.encodec.codebooks_per_bandwidth
            count = counts[-1] if bandwidth_id is None else counts[min(bandwidth_id, len(counts) - 1)]
            codes = rng.integers(config.encodec.codebook_size, size=(count, _FRAMES))
            given, _ = runtime.read(codes, bandwidth_id)
            features = sum(weights.codebooks[k][codes[k]] for k in range(count)).T
        else:
            features = _random_mels(config, rng)
            given = features[None]
        expected = vocos_spectrum(weights.state, features, bandwidth_id)
        found = runtime.network.spectrum(given, bandwidth_id)[0]
        worst = max(worst, relative_difference(found, expected))
    return worst


def _random_mels(config: ModelConfig, rng: np.random.Generator) -> Float:
    # log-mels lie between log(1e-7) = -16 and about 4
    return rng.uniform(-16, 4, (config.feature_channels, _FRAMES)).astype(np.float32)
