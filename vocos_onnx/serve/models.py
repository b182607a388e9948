"""The models of the service, by name: loaded when they are first asked for."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from vocos_onnx.encoder import EncodecONNX
from vocos_onnx.io.tokens import Tokens
from vocos_onnx.model.bundled import BUNDLED_CODEC, find_model
from vocos_onnx.model.config import METADATA_KEY, ModelConfig
from vocos_onnx.model.cpus import available_cpus
from vocos_onnx.model.session import stored_file
from vocos_onnx.stream_pool import StreamPool
from vocos_onnx.vocoder import VocosONNX

from .settings import Settings, Source
from .wording import unknown

_FACTS = (
    *("kind", "sample_rate", "hop_length", "bandwidths", "codebooks", "channels", "codec", "codebooks_sha256"),
    *("encodes", "streamable", "delay_frames", "precision", "providers"),
)
_log = logging.getLogger("vocos_onnx.serve")
is_loading = contextvars.ContextVar("is_loading", default=False)
"""Whether a model is being loaded by what runs: of that, and of no request, the library's warnings are for the log."""


class UnknownModelError(LookupError):
    """There is no model of this name; the message lists those that there are."""


class NotLoadedError(RuntimeError):
    """A model cannot be loaded now; the message is for clients, and names no path. The log has the reason."""


class Model:
    """A model that is loaded. Its methods may be called from any thread.

    Attributes:
        name: as clients ask for it.
        vocos: the model itself.
        encoder: what makes its tokens of audio; None for a model of mels, and for a codec whose encoder is not given.
    """

    def __init__(self, name: str, vocos: VocosONNX, encoder: EncodecONNX | None, max_streams: int) -> None:
        self.name, self.vocos, self.encoder = name, vocos, encoder
        self._max_streams, self._lock = max(1, max_streams), threading.Lock()
        self._pool: StreamPool | None = None

    def pool(self) -> StreamPool:
        """The pool of its streams, made when it is first needed. Raises ValueError for a model without streams."""
        with self._lock:
            if self._pool is None:
                # decodes run side by side as workers, each on ``threads``; streams share one pool, which has all cores
                self._pool = self.vocos.stream_pool(self._max_streams, threads=available_cpus())
            return self._pool

    def open_streams(self) -> int:
        """How many streams are open."""
        with self._lock:
            return 0 if self._pool is None else len(self._pool)

    @property
    def is_codec(self) -> bool:
        """Whether it decodes tokens, and not mels."""
        return self.vocos.config.encodec is not None

    def describe(self) -> dict[str, Any]:
        """What /v1/models tells of it."""
        return _described(self.vocos.config) | {
            "encodes": self.encoder is not None,
            "streamable": self.vocos.network.is_streamable,
            "delay_frames": self.vocos.delay,
            "providers": self.vocos.providers,
        }

    def close(self) -> None:
        with self._lock:
            if self._pool is not None:
                self._pool.close()


class Models:
    """The models that the service offers. Used from its event loop alone.

    A model is loaded in a thread when it is first asked for, once, however many ask meanwhile. If that fails, each of
    them is told so, and the next request tries again.

    Args:
        settings: those of the service.
        on_load: called with the name and whether it worked, after each try.
    """

    def __init__(self, settings: Settings, on_load: Callable[[str, bool], None] = lambda name, ok: None) -> None:
        self._settings, self._on_load = settings, on_load
        self._sources = {source.name: source for source in settings.models}
        self._loaded: dict[str, Model] = {}
        self._loading: dict[str, asyncio.Task[Model]] = {}
        self._configs: dict[str, ModelConfig] = {}  # of what is on this disk, whether loaded or not
        self.default = settings.models[0].name
        self._is_starting = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._sources)

    @property
    def loaded(self) -> tuple[Model, ...]:
        return tuple(self._loaded.values())

    def is_ready(self) -> bool:
        """Whether the default model is loaded."""
        return self.default in self._loaded

    async def get(self, name: str | None = None) -> Model:
        """The model of this name, loaded; without a name, the default.

        Raises UnknownModelError, NotLoadedError.
        """
        name = self.default if name is None else name
        if (model := self._loaded.get(name)) is not None:
            return model
        if name not in self._sources:
            raise UnknownModelError(f"there is no model {unknown(name, self._sources)}")
        if name not in self._loading:
            self._loading[name] = asyncio.create_task(self._load(self._sources[name]))
            self._loading[name].add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            return await asyncio.shield(self._loading[name])
        except Exception as error:
            raise NotLoadedError(f"the model {name} cannot be loaded: the log of the service has the reason") from error

    async def load_default(self) -> Model:
        """Load the default model, and look at what the files of the others say of themselves, for ``describe``.

        Raises NotLoadedError, whose cause is why; it is not in the log.
        """
        self._is_starting = True
        try:
            self._configs = await asyncio.to_thread(self._read_configs)
            return await self.get()
        finally:
            self._is_starting = False

    def _read_configs(self) -> dict[str, ModelConfig]:
        found = {}
        for source in self._sources.values():
            if find_model(source.model).is_file():
                with suppress(ValueError, OSError):  # which it says where it is loaded
                    metadata = stored_file(source.model, METADATA_KEY).metadata
                    if METADATA_KEY in metadata:
                        found[source.name] = ModelConfig.from_json(metadata[METADATA_KEY])
        return found

    def first(self, kind: str) -> str | None:
        """The first model that decodes "tokens" or "mels", of those of which that is known; None if there is none."""
        for name in self._sources:
            config = self._config(name)
            if config is not None and (kind == "tokens") == (config.encodec is not None):
                return name
        return None

    def with_remedy(self, reason: str, tokens: Tokens, not_by: Model) -> str:
        """A reason of the library why a model does not decode tokens, with the model that does.

        The library knows of no other model. Any other reason stays as it is.
        """
        wanted = r": pass the model of their codec(, VocosONNX\('[^']*'\))?"
        return re.sub(wanted, f": {self.for_codec(tokens, not_by)}", reason)

    def for_codec(self, tokens: Tokens, not_by: Model) -> str:
        """What to ask for, for tokens that name their codec: another model that decodes them, if one is known to."""
        for name in self._sources:
            if name == not_by.name:
                continue
            config = self._config(name)
            codec = None if config is None else config.encodec
            if codec is not None and tokens.codec == codec.codec:
                return f"ask for model={name}"
        return "no other model of the service is known to decode them; /v1/models lists those there are"

    def _config(self, name: str) -> ModelConfig | None:
        loaded = self._loaded.get(name)
        return self._configs.get(name) if loaded is None else loaded.vocos.config

    async def _load(self, source: Source) -> Model:
        """Raises whatever VocosONNX does."""
        worked = False
        is_loading.set(True)  # of this task alone, and of the thread that it waits for
        try:
            model = self._loaded[source.name] = await asyncio.to_thread(self._open, source)
            worked = True
            return model
        except Exception as error:
            if not self._is_starting:  # at the start the caller says it
                _log.error("the model %s cannot be loaded: %s", source.name, error)
            _log.debug("it failed with", exc_info=error)
            raise
        finally:
            del self._loading[source.name]
            self._on_load(source.name, worked)

    def _open(self, source: Source) -> Model:
        options: dict[str, Any] = {
            "providers": None if self._settings.provider is None else [self._settings.provider],
            "threads": self._settings.threads,
        }
        encoder = None if source.encoder is None else EncodecONNX(source.encoder, **options)
        if self._settings.precision is None or not source.is_converted:
            vocos = VocosONNX(source.model, encoder=encoder, **options)  # raises if they are no pair
        else:
            precision = self._settings.precision
            vocos = VocosONNX.from_pretrained(source.model, precision=precision, encoder=encoder, **options)
        codec = vocos.config.encodec
        if encoder is None and codec is not None and codec.codec == BUNDLED_CODEC:
            encoder = EncodecONNX(**options)
        return Model(source.name, vocos, encoder, self._settings.streams)

    def describe(self) -> dict[str, Any]:
        """The answer to /v1/models: of a model that is not loaded, what its file tells."""
        return {"default": self.default, "models": [self._describe(source) for source in self._sources.values()]}

    def _describe(self, source: Source) -> dict[str, Any]:
        loaded, config = self._loaded.get(source.name), self._config(source.name)
        facts: dict[str, Any] = dict.fromkeys(_FACTS)
        if loaded is not None:
            facts |= loaded.describe()
        elif config is not None:
            has_own = config.encodec is not None and config.encodec.codec == BUNDLED_CODEC
            facts |= _described(config) | {"encodes": source.encoder is not None or has_own}
        return {"name": source.name, "loaded": loaded is not None, **facts}

    def close(self) -> None:
        """Close the pools of streams: what waits in them ends with RuntimeError."""
        for task in self._loading.values():
            task.cancel()
        for model in self._loaded.values():
            model.close()


def _described(config: ModelConfig) -> dict[str, Any]:
    """What the description in a model's file tells."""
    codec = config.encodec
    return {
        "kind": "tokens" if codec is not None else "mels",
        "sample_rate": config.sample_rate,
        "hop_length": config.hop_length,
        "bandwidths": None if codec is None else list(codec.bandwidths),
        "codebooks": None if codec is None else list(codec.codebooks_per_bandwidth),
        "channels": config.feature_channels if codec is None else None,
        "codec": None if codec is None else codec.codec,
        "codebooks_sha256": None if codec is None else codec.codebooks_sha256,
        "precision": config.precision,
    }
