"""What a job does with its items: all the settings that determine the bytes of an output."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from vocos_onnx.bandwidths import DEFAULT_BANDWIDTH, bandwidth_index
from vocos_onnx.messages import shown
from vocos_onnx.model.bundled import BUNDLED_CODEC, CODEC, CODEC_ENCODER, MEL, find_model
from vocos_onnx.model.cache import file_sha256
from vocos_onnx.model.config import ENCODER_KEY, METADATA_KEY
from vocos_onnx.model.origin import Wanted, reopened
from vocos_onnx.pretrained import opened

if TYPE_CHECKING:
    import os

    from vocos_onnx import EncodecONNX, ModelConfig, VocosONNX

Task = Literal["decode", "resynth", "encode"]
System = Literal["f5", "zipvoice", "matcha", "chattts", "mlx"]  # systems whose mels are known
FORMATS = ("wav", "flac", "mp3", "ogg", "opus")  # of audio
_DOES: dict[Task, str] = {"decode": "tokens or mels to audio", "encode": "audio to tokens", "resynth": "audio to audio"}
_COPIES = "pass task='resynth' for copies of the audio"
MAX_SHARD = 1_000_000  # items


@dataclass(frozen=True)
class Model:
    """A model as every process of a job opens it: by its path or id, provided that its sha256 is unchanged.

    name: for display.
    sha256: of the .onnx file; for a checkpoint, of the converted file.
    pinned: what reopens it, as in a pickle of the object.
    """

    name: str
    sha256: str
    pinned: tuple[str, str] | Wanted

    @classmethod
    def of(cls, given: str | os.PathLike[str], key: str) -> Model:
        """The model that an argument of VocosONNX or EncodecONNX refers to. Raises the same errors as those."""
        sha256, origin = opened(Wanted.of(given, key), lambda file: file_sha256(Path(find_model(file))))
        return cls(origin.name, sha256, origin.pinned())


@dataclass(frozen=True)
class Settings:
    """What is done with each item. The bytes of an output depend only on its input and these settings.

    Create them with ``Settings.of``, which checks them.

    task: "decode" (tokens or mels to audio), "encode" (audio to tokens), "resynth" (audio to audio).
    format: "wav" (16 bits), "flac", "mp3", "ogg", "opus", or "npz" for encode.
    model, encoder: those that the task needs.
    provider: the execution provider.
    bandwidth: in kbps; None if it is implied.
    mels_from: the system that made the mels; None for the model's own.
    key: the array to read in files that hold several.
    shard_size: items per tar file; None for one file per item.
    """

    task: Task
    format: str
    model: Model | None = None
    encoder: Model | None = None
    provider: str = "cpu"
    bandwidth: float | None = None
    mels_from: System | None = None
    key: str | None = None
    shard_size: int | None = None

    @classmethod
    def of(
        cls,
        task: Task,
        *,
        format: str | None = None,
        model: str | os.PathLike[str] | None = None,
        encoder: str | os.PathLike[str] | None = None,
        provider: str = "cpu",
        bandwidth: float | None = None,
        mels_from: System | None = None,
        key: str | None = None,
        shard_size: int | None = None,
    ) -> Settings:
        """Returns the settings of a job, after checking them by opening the models once.

        Args:
            task: "decode", "encode" or "resynth".
            format: by default "wav"; "npz" for encode, the only choice there. Upper or lower case, with or without a
                dot.
            model: as ``VocosONNX`` takes it, by default the bundled codec; not for encode.
            encoder: as ``EncodecONNX`` takes it, by default that of the bundled codec; not for decode.
            provider: "cpu", "cuda", or another execution provider of onnxruntime.
            bandwidth: in kbps. By default 6 for encode and resynth, and that of the tokens for decode; a lower one
                decodes only their first codebooks.
            mels_from: for decode, the name of a system, as ``VocosONNX.decode`` takes it.
            key: for decode, the name of the array in files that hold several.
            shard_size: items per tar file in webdataset's layout; None writes one file per item.

        Raises:
            ValueError: if the task or format is unknown, the task does not take a setting, the models do not support
                it, or the models do not fit together.
            FileNotFoundError, RuntimeError, ImportError: as ``VocosONNX``.

        Example:
            >>> settings = Settings.of("decode", format="flac")
        """
        _check_choice("task", task, get_args(Task))
        format = _read_format(task, format)
        given = {"model": model, "encoder": encoder, "mels_from": mels_from, "key": key}
        for name in {"decode": ("encoder",), "encode": ("model", "mels_from", "key")}.get(task, ("mels_from", "key")):
            if given[name] is not None:
                remedy = f"leave it out, or {_COPIES}" if name == "model" else "leave it out"
                raise ValueError(f"{name} is {shown(given[name])}, but {_DOES[task]} takes none: {remedy}")
        if mels_from is not None and mels_from not in get_args(System):
            known = ", ".join(get_args(System))
            raise ValueError(f"mels_from is {shown(mels_from)}, expected {known}, or None for the model's own")
        _check_shard(shard_size)
        if bandwidth is not None:
            bandwidth = float(bandwidth)
        common: dict[str, Any] = {
            "task": task, "format": format, "provider": provider, "mels_from": mels_from, "key": key,
            "shard_size": shard_size,
        }  # fmt: skip
        if task == "encode":
            pinned = Model.of(CODEC_ENCODER if encoder is None else encoder, ENCODER_KEY)
            settings = cls(**common, encoder=pinned, bandwidth=DEFAULT_BANDWIDTH if bandwidth is None else bandwidth)
            bandwidth_index(settings.bandwidth or 0, settings.open_encoder().bandwidths)
            return settings
        vocoder = Model.of(CODEC if model is None else model, METADATA_KEY)
        settings = cls(**common, model=vocoder, bandwidth=bandwidth)
        vocos = settings.open_vocoder()
        _check_format(format, vocos.sample_rate)
        if task == "decode":
            _check_decode(settings, vocos.config)
            return settings
        if vocos.config.encodec is not None and encoder is None and vocos.config.encodec.codec != BUNDLED_CODEC:
            # Raises ValueError: there is no encoder, and the message names the one that the model needs.
            _check_resynth(replace(settings, bandwidth=vocos.config.encodec.bandwidths[0]))
        if vocos.config.encodec is not None:
            settings = cls(
                **common,
                model=vocoder,
                encoder=Model.of(CODEC_ENCODER if encoder is None else encoder, ENCODER_KEY),
                bandwidth=DEFAULT_BANDWIDTH if bandwidth is None else bandwidth,
            )
        elif encoder is not None or bandwidth is not None:
            name = "encoder" if encoder is not None else "bandwidth"
            raise ValueError(f"{name} is given, but this is a mel model, without tokens: leave it out")
        _check_resynth(settings)
        return settings

    def open_vocoder(self) -> VocosONNX:
        """The vocoder, with the encoder of resynth, on one thread."""
        from vocos_onnx.vocoder import VocosONNX

        assert self.model is not None
        encoder = None if self.encoder is None else self.open_encoder()
        pinned = reopened(self.model.pinned, "VocosONNX")
        return VocosONNX(pinned, providers=[self.provider], threads=1, encoder=encoder)

    def open_encoder(self) -> EncodecONNX:
        """The encoder, on one thread."""
        from vocos_onnx.encoder import EncodecONNX

        assert self.encoder is not None
        return EncodecONNX(reopened(self.encoder.pinned, "EncodecONNX"), providers=[self.provider], threads=1)

    def described(self) -> dict[str, str | float | int | None]:
        """The settings as JSON values; a model is represented by its sha256, wherever its file is."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value.sha256 if isinstance(value, Model) else value for name, value in values.items()}

    @property
    def sha256(self) -> str:
        """The sha256 of the canonical JSON of ``described``."""
        text = json.dumps(self.described(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def names(self) -> dict[str, str]:
        """The display names of the model and the encoder, as far as the job has them."""
        models = {"model": self.model, "encoder": self.encoder}
        return {setting: model.name for setting, model in models.items() if model is not None}

    def differences(self, other: Mapping[str, Any], names: Mapping[str, str] | None = None) -> list[str]:
        """Lists how the settings that another job has ``described`` differ from these, one entry per setting.

        Args:
            other: the other job's ``described`` settings.
            names: names of its models, as far as they are known. They are only printed, not compared.

        Example:
            >>> settings.differences(other.described(), other.names())
            ['bandwidth is 3 here and 6 there']
        """
        own, own_names, names = self.described(), self.names(), names or {}
        return [
            f"{setting} is {_short(own.get(setting), own_names.get(setting))} here and "
            f"{_short(other.get(setting), names.get(setting))} there"
            for setting in {**own, **other}
            if own.get(setting) != other.get(setting)
        ]


def _short(value: Any, name: str | None) -> str:
    """The value of a setting for display; for a model its name and sha256."""
    if value is None:
        return "none"
    if isinstance(value, str) and len(value) == 64:
        return f"the file of sha256 {value[:12]}..." if name is None else f"{name} (sha256 {value[:12]}...)"
    return f"{value:g}" if isinstance(value, float) else shown(value)


def _check_choice(name: str, value: Any, known: tuple[str, ...], why: str = "") -> None:
    if value not in known:
        raise ValueError(f"{name} is {shown(value)}, expected {' or '.join(known)}{why}")


def _read_format(task: Task, format: Any) -> str:
    """The extension of the outputs; as in the single-file commands, ".FLAC" means "flac". Raises ValueError."""
    is_audio = task != "encode"
    known = FORMATS if is_audio else ("npz",)
    ending = format.lower().removeprefix(".") if isinstance(format, str) else format
    if not ending:
        return known[0]
    why = "the outputs are audio" if is_audio else f"the outputs are tokens; {_COPIES}"
    _check_choice("format", ending if ending in known else format, known, f": {why}")
    return str(ending)


def _check_shard(size: Any) -> None:
    if size is not None and not (type(size) is int and 1 <= size <= MAX_SHARD):
        raise ValueError(f"shard_size is {shown(size)}, expected 1 to {MAX_SHARD:,} items, or None for single files")


def _check_format(format: str, rate: int) -> None:
    """Raises ValueError if that format does not support the model's sample rate."""
    import io

    import numpy as np

    from vocos_onnx.io.audio import save_blocks

    save_blocks(io.BytesIO(), [np.zeros(rate, np.float32)], rate, format=format)


def _check_decode(settings: Settings, config: ModelConfig) -> None:
    if settings.bandwidth is not None:
        if config.encodec is None:
            raise ValueError("bandwidth is given, but this is a mel model, without tokens: leave it out")
        bandwidth_index(settings.bandwidth, config.encodec.bandwidths)
    if settings.mels_from is not None:
        from vocos_onnx.mels import convention_of

        if config.encodec is not None:
            raise ValueError(
                f"mels_from is given, but this model decodes tokens of {config.encodec.codec}: leave it out, or pass a "
                f"model of mels, such as model={MEL!r}"
            )
        convention_of(settings.mels_from, config.feature_channels)


def _check_resynth(settings: Settings) -> None:
    import numpy as np

    vocos = settings.open_vocoder()  # raises if the encoder's codebooks are not the model's
    vocos(np.zeros(vocos.sample_rate), vocos.sample_rate, bandwidth=settings.bandwidth)
