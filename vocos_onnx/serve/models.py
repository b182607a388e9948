"""The models of the service by name, each loaded when it is first requested."""

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
from vocos_onnx.model.registry import MODEL_OF_CODEC
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
    """There is no model of this name; the message lists the names there are."""


class NotLoadedError(RuntimeError):
    """A model cannot be loaded now. The message is meant for clients and names no path; the log has the reason."""


class Model:
    """A loaded model. Its methods may be called from any thread.

    Attributes:
        name: the name that clients use.
        vocos: the model itself.
        encoder: the encoder that turns audio into its tokens; None for a mel model, and for a codec whose encoder was
            not given.
    """

    def __init__(self, name: str, vocos: VocosONNX, encoder: EncodecONNX | None, max_streams: int) -> None:
        self.name, self.vocos, self.encoder = name, vocos, encoder
        self._max_streams, self._lock = max(1, max_streams), threading.Lock()
        self._pool: StreamPool | None = None

    def pool(self) -> StreamPool:
        """Returns the pool of its streams, made on first use. Raises ValueError if the model cannot be streamed."""
        with self._lock:
            if self._pool is None:
                # Decodes run side by side in the workers, each on ``threads`` threads. All streams share this one
                # pool, so it gets every core.
                self._pool = self.vocos.stream_pool(self._max_streams, threads=available_cpus())
            return self._pool

    def open_streams(self) -> int:
        """Returns how many streams are open."""
        with self._lock:
            return 0 if self._pool is None else len(self._pool)

    @property
    def is_codec(self) -> bool:
        """Whether it decodes tokens rather than mels."""
        return self.vocos.config.encodec is not None

    def describe(self) -> dict[str, Any]:
        """Returns what /v1/models reports about it."""
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
    """The models that the service offers. May only be used from its event loop.

    A model is loaded in a thread on its first request, and only once, however many requests arrive meanwhile. If
    loading fails, all of these requests fail, and the next one tries again.

    Args:
        settings: the settings of the service.
        on_load: called after each attempt with the name and whether it succeeded.
    """

    def __init__(self, settings: Settings, on_load: Callable[[str, bool], None] = lambda name, ok: None) -> None:
        self._settings, self._on_load = settings, on_load
        self._sources = {source.name: source for source in settings.models}
        self._loaded: dict[str, Model] = {}
        self._loading: dict[str, asyncio.Task[Model]] = {}
        self._configs: dict[str, ModelConfig] = {}  # of the models on this disk, loaded or not
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
        """Returns the model of this name, or the default model if no name is given, and loads it if necessary.

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
        """Loads the default model, after reading the metadata of every model file on this disk for ``describe``.

        Raises NotLoadedError, whose cause is the reason; it is not logged.
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
                with suppress(ValueError, OSError):  # reported when the model is loaded
                    metadata = stored_file(source.model, METADATA_KEY).metadata
                    if METADATA_KEY in metadata:
                        found[source.name] = ModelConfig.from_json(metadata[METADATA_KEY])
        return found

    def first(self, kind: str) -> str | None:
        """Returns the first model known to decode "tokens" or "mels", or None."""
        for name in self._sources:
            config = self._config(name)
            if config is not None and (kind == "tokens") == (config.encodec is not None):
                return name
        return None

    def with_remedy(self, reason: str, tokens: Tokens, not_by: Model) -> str:
        """Returns the library's reason for rejecting tokens, with its advice replaced by the model that decodes them.

        The library cannot know the other models of the service. A reason without that advice is returned unchanged.
        """
        wanted = r": pass the model of their codec(, VocosONNX\('[^']*'\))?"
        return re.sub(wanted, f": {self.for_codec(tokens, not_by)}", reason)

    def for_codec(self, tokens: Tokens, not_by: Model) -> str:
        """Returns advice for tokens that name their codec: the other model known to decode them, if there is one."""
        for name in self._sources:
            if name == not_by.name:
                continue
            config = self._config(name)
            codec = None if config is None else config.encodec
            if codec is not None and tokens.codec == codec.codec:
                return f"ask for model={name}"
        decodes = MODEL_OF_CODEC.get(tokens.codec or "")
        remedy = "" if decodes is None else f"; start the service with --model {decodes}"
        return f"no other model of the service is known to decode them, see /v1/models{remedy}"

    def _config(self, name: str) -> ModelConfig | None:
        loaded = self._loaded.get(name)
        return self._configs.get(name) if loaded is None else loaded.vocos.config

    async def _load(self, source: Source) -> Model:
        """Loads a model in a thread. Raises whatever VocosONNX raises."""
        worked = False
        is_loading.set(True)  # in this task and the thread it waits for, and nowhere else
        try:
            model = self._loaded[source.name] = await asyncio.to_thread(self._open, source)
            worked = True
            return model
        except Exception as error:
            if not self._is_starting:  # at startup the caller reports it
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
            vocos = VocosONNX(source.model, encoder=encoder, **options)  # raises if they do not match
        else:
            precision = self._settings.precision
            vocos = VocosONNX.from_pretrained(source.model, precision=precision, encoder=encoder, **options)
        codec = vocos.config.encodec
        if encoder is None and codec is not None and codec.codec == BUNDLED_CODEC:
            encoder = EncodecONNX(**options)
        return Model(source.name, vocos, encoder, self._settings.streams)

    def describe(self) -> dict[str, Any]:
        """Returns the answer to /v1/models. For a model not loaded yet it has only what its file states."""
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
        """Cancels loading and closes the pools of streams; calls waiting in a pool raise RuntimeError."""
        for task in self._loading.values():
            task.cancel()
        for model in self._loaded.values():
            model.close()


def _described(config: ModelConfig) -> dict[str, Any]:
    """Returns the facts stored in a model's file."""
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
