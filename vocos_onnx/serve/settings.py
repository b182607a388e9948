"""The settings of the service."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vocos_onnx.limits import require
from vocos_onnx.messages import shown
from vocos_onnx.model.bundled import BUNDLED, CODEC, MEL
from vocos_onnx.model.cpus import available_cpus
from vocos_onnx.model.names import is_hub_id

_NAME = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}"  # the name that clients use for a model
_ORIGIN = r"https?://[A-Za-z0-9.\[\]:_-]+"


@dataclass(frozen=True)
class Source:
    """A model that the service offers: its name, and what to pass to VocosONNX to open it.

    model: path of a file or a checkpoint, name of a bundled model, or id on the hub.
    encoder: the encoder that turns audio into its tokens, as ``EncodecONNX`` takes it; None gives the bundled codec
        its own, and other models none.
    """

    name: str
    model: str
    encoder: str | None = None

    @property
    def is_converted(self) -> bool:
        """Whether its precision can be chosen, which is not so for a bundled model or an .onnx file."""
        return self.model not in BUNDLED and not self.model.lower().endswith(".onnx")


DEFAULT_MODELS = (Source(CODEC, CODEC), Source(MEL, MEL))


def parse_models(models: Iterable[str] = (), encoders: Iterable[str] = ()) -> tuple[Source, ...]:
    """Returns the models given by --model [NAME=]MODEL and --encoder [NAME=]ENCODER; by default the two bundled ones.

    Without NAME=, a file is named after itself without .onnx, and a bundled model or an id on the hub keeps its name.

    Raises ValueError if a name is invalid or used twice, or if an encoder belongs to no model.

    Example:
        >>> parse_models(["own=runs/model.onnx", "charactr/vocos-mel-24khz"])
        (Source(name='own', model='runs/model.onnx', encoder=None), ...)
    """
    found: dict[str, Source] = {}
    for given in models:
        name, model = _named(given)
        if name is None:
            name = model if is_hub_id(model) else Path(model).name.removesuffix(".onnx")
        require(bool(model), f"--model is {shown(given)}, expected NAME=MODEL, or MODEL alone")
        if not re.fullmatch(_NAME, name):
            raise ValueError(
                f"{shown(name)} is no name for a model: expected letters, digits and ._/-, which begin with one of the "
                "first two; give it another one as --model NAME=MODEL"
            )
        require(
            name not in found, f"two models are called {name}: give one of them another name, as --model NAME=MODEL"
        )
        found[name] = Source(name, model)
    found = found or {source.name: source for source in DEFAULT_MODELS}
    for given in encoders:
        name, encoder = _named(given)
        if name is None and len(found) == 1:
            name = next(iter(found))
        if name is None or name not in found:
            raise ValueError(
                f"--encoder is {shown(given)}, expected NAME=ENCODER with the name of one of the models: "
                f"{', '.join(found)}"
            )
        require(bool(encoder), f"--encoder is {shown(given)}, expected NAME=ENCODER")
        found[name] = Source(name, found[name].model, encoder)
    return tuple(found.values())


def _named(given: str) -> tuple[str | None, str]:
    """Splits NAME=REST. An existing file whose path contains "=" is not split."""
    name, sign, rest = given.partition("=")
    return (name, rest) if sign and not Path(given).exists() else (None, given)


@dataclass(frozen=True)
class Settings:
    """The settings of the service.

    models: the models it offers. The first is the default and is loaded at startup, the others on first use.
    host, port: the address to listen on; port 0 picks a free one.
    precision: "int8" or "float16" for models from the hub and other checkpoints, None for float32. Bundled models and
        .onnx files have their own precision.
    provider: execution provider of onnxruntime; None leaves the choice to VocosONNX. threads: for one network call.
    workers: how many decodes run at once. queue: how many requests may wait for a worker.
    max_body: largest body in bytes. max_json: largest JSON body in bytes; JSON takes ten times its size while it is
        read.
    max_seconds: longest audio of one request, in seconds.
    memory: bytes that all requests together may hold.
    streams: how many WebSocket streams may be open at once.
    stream_idle: seconds without a message after which a WebSocket is closed.
    stream_stall: seconds after which a WebSocket is closed if its client does not read.
    connections: how many connections of all kinds may be open at once.
    drain: seconds from SIGTERM to the end.
    token: bearer token that clients must send; None requires none.
    cors: origins of other sites whose pages may use the service; "*" allows any.
    access_log: whether to log a line for each request.

    Raises:
        ValueError: a value is out of range.
    """

    models: tuple[Source, ...] = DEFAULT_MODELS
    host: str = "127.0.0.1"
    port: int = 8000
    precision: str | None = None
    provider: str | None = None
    threads: int = 1
    workers: int = field(default_factory=available_cpus)
    queue: int = 16
    max_body: int = 64_000_000
    max_json: int = 2_000_000
    max_seconds: float = 600
    memory: int = 256_000_000
    streams: int = 256
    stream_idle: float = 60
    stream_stall: float = 10
    connections: int = 768
    drain: float = 8
    token: str | None = field(default=None, repr=False)
    cors: tuple[str, ...] = ()
    access_log: bool = False

    def __post_init__(self) -> None:
        require(bool(self.models), "there are no models: expected one at least")
        if self.precision is not None and not any(source.is_converted for source in self.models):
            raise ValueError(
                f"{'--int8' if self.precision == 'int8' else '--fp16'} is given, and no model is of the hub: bundled "
                "models and .onnx files have their own precision; leave it out, or make a file in another one with: "
                "vocos-onnx convert, or vocos-onnx quantize"
            )
        for name, least, most in (
            ("port", 0, 65_535),
            ("threads", 1, 1024),
            ("workers", 1, 1024),
            ("queue", 0, 100_000),
            ("max_body", 1000, 1 << 40),
            ("max_json", 1000, 1 << 40),
            ("memory", 1 << 20, 1 << 50),
            ("streams", 0, 1 << 16),
            ("connections", 8, 1 << 20),
        ):
            value = getattr(self, name)
            fits, option = type(value) is int and least <= value <= most, f"--{name.replace('_', '-')}"
            if name in ("max_body", "max_json", "memory") and type(value) is int:
                scaled = f"{value / 1e6:g} MB, expected {least / 1e6:g} to {most / 1e6:.0f} (of a million bytes)"
                require(fits, f"{option} is {scaled}")
            require(fits, f"{option} is {shown(value)}, expected {least} to {most}")
        for name, least_seconds in (
            *(("max_seconds", 0.1), ("drain", 0.0)),
            *(("stream_idle", 0.1), ("stream_stall", 0.1)),
        ):
            value = getattr(self, name)
            fits = isinstance(value, int | float) and math.isfinite(value) and value >= least_seconds
            option = f"--{name.replace('_', '-')}"
            require(fits, f"{option} is {shown(value)}, expected seconds, {least_seconds:g} or more")
        if 2 * self.streams > self.connections:
            raise ValueError(
                f"--streams is {self.streams} and --connections {self.connections}: streams take at most half of the "
                f"connections, expected {2 * self.streams} of these or more"
            )
        if self.token is not None and not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", self.token):
            wrong = re.search(r"[^A-Za-z0-9._~+/=-]|^=|=(?=[^=])", self.token)
            what = "is empty" if not self.token else "holds what no bearer token has"
            if wrong is not None:
                what = f"holds {shown(wrong[0])} at character {wrong.start() + 1}"
            raise ValueError(
                f"the token (VOCOS_TOKEN) {what}: expected letters, digits and -._~+/, and = only at the end; leave "
                "the variable unset to ask for none"
            )
        for origin in self.cors:
            if origin != "*" and not re.fullmatch(_ORIGIN, origin):
                raise ValueError(
                    f"--cors is {shown(origin)}, expected an origin such as https://example.org, without a path, or *"
                )
