"""Runs the service: opens its socket, runs the server, and shuts it down."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import uvicorn

from vocos_onnx.model.bundled import find_model
from vocos_onnx.model.config import ENCODER_KEY, METADATA_KEY
from vocos_onnx.model.mistaken import missing_message
from vocos_onnx.model.names import is_hub_id

from .access import is_of_this_machine
from .app import Service, create_app
from .models import is_loading
from .settings import Settings

MESSAGE = 1 << 19  # bytes of the longest WebSocket message; 5 s of mels in float64 take 400 kB
M_MMAP_THRESHOLD = -3  # from malloc.h
TOLD = 0.5  # seconds at most in which WebSockets are told that the service is shutting down, and answer
LONG = 30  # tenths of a second after which a line announces that the default model is still loading
_log = logging.getLogger("vocos_onnx.serve")


def run(settings: Settings, announce: Callable[[str], object] = print) -> None:
    """Serves until SIGTERM or SIGINT, then calls the handler that the signal had before.

    Args:
        settings: the settings of the service.
        announce: called with a line of text when the default model is loaded, and once earlier if loading takes long.

    Raises:
        FileNotFoundError: a model is neither an existing file nor an id on the hub.
        OSError: the address cannot be bound, for example because the port is in use.
        RuntimeError: the default model cannot be loaded; the message has the reason.

    Example:
        >>> run(Settings(port=8000))
    """
    _check_models(settings)
    _return_large_blocks()
    app, service = create_app(settings)
    options: dict[str, Any] = {
        "loop": "asyncio",  # limits.py cannot bound a read in uvloop: bodies in one-byte chunks would starve the others
        "access_log": settings.access_log,
        "log_config": None,
        "server_header": False,
        "proxy_headers": False,
        "lifespan": "on",
        "ws": "websockets-sansio",
        "ws_max_size": MESSAGE,
        "ws_max_queue": 1,
        "ws_ping_interval": 20.0,
        "ws_per_message_deflate": False,
        "timeout_graceful_shutdown": settings.drain,
    }
    _log_to_stderr(settings.access_log)
    with _bound(settings.host, settings.port) as plug:
        host, port = plug.getsockname()[:2]
        if settings.token is None and not is_of_this_machine(host):
            _log.warning("other machines can use the service, and no bearer token is required: VOCOS_TOKEN sets one")
        if "*" in settings.cors and settings.token is None:
            _log.warning("pages of any site can use the service, and no bearer token is required: VOCOS_TOKEN sets one")
        first, *others = service.models.names
        names = ", ".join([f"{first} (default)", *others])
        token = "no bearer token required" if settings.token is None else "a bearer token is required"
        shown_host = f"[{host}]" if ":" in host else host
        url = f"http://{shown_host}:{port}"
        lines = f"{url} serves {names}; {token}", f"{url} is loading {first}"
        with _warnings_of_loading():
            _Server(uvicorn.Config(app, **options), service, announce, *lines).run([plug])
    if service.failed is not None:
        reason = service.failed.__cause__ or service.failed
        raise RuntimeError(f"the model {first} cannot be loaded: {reason}") from reason


def _return_large_blocks() -> None:
    """Makes glibc return every block of 1 MB or more to the system when it is freed.

    Otherwise glibc keeps blocks of up to 32 MB once one of that size has been freed. After a mix of large bodies, audio
    and streams they were a third of the resident memory. Returning them takes under 3 % of the time of a decode.
    """
    if sys.platform == "linux" and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        with suppress(AttributeError):  # not glibc
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)


class _Server(uvicorn.Server):
    """uvicorn's server, which also announces when it is ready and marks the service as ending on a signal."""

    def __init__(
        self, config: uvicorn.Config, service: Service, announce: Callable[[str], object], serves: str, loads: str
    ) -> None:
        super().__init__(config)
        self._service, self._announce = service, announce
        self._serves, self._loads = serves, loads
        self._is_announced = False

    async def on_tick(self, counter: int) -> bool:
        """Called every tenth of a second, with a counter that starts at 0. Returns whether to shut down."""
        if not self._is_announced:
            self._is_announced = self._service.models.is_ready()
            if self._is_announced:
                self._announce(self._serves)
            elif counter == LONG and self._service.failed is None:
                self._announce(self._loads)
        return self._service.failed is not None or await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tells the WebSockets why they are closed, before uvicorn closes them with the same code.

        uvicorn closes a connection at once. If something that the client has sent is still unread then, the system
        resets the connection, and the client may lose the reason. So this waits for the clients to close theirs.
        """
        loop, told = asyncio.get_running_loop(), list(self._service.sockets)
        for one in told:
            one.end()
        end = loop.time() + TOLD
        while not all(one.is_gone for one in told) and loop.time() < end:
            await asyncio.sleep(0.001)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.ending = True
        super().handle_exit(sig, frame)


def _check_models(settings: Settings) -> None:
    """Raises FileNotFoundError now if a model or encoder is missing, rather than when it is first requested."""
    for source in settings.models:
        for given, key in ((source.model, METADATA_KEY), (source.encoder, ENCODER_KEY)):
            if given is not None and not is_hub_id(given) and not find_model(given).exists():
                raise FileNotFoundError(missing_message(given, key))


def _bound(host: str, port: int) -> socket.socket:
    """Returns a socket bound to the address that does not listen yet. Raises OSError."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        plug = socket.socket(family, kind, number)
        try:
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            plug.bind(address)
        except OSError:
            plug.close()
            raise
    except (OSError, UnicodeError) as error:
        remedy = ""
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            remedy = "; name another one as --port N, or --port 0 for any that is free"
        why = getattr(error, "strerror", None) or error
        raise OSError(f"cannot listen on {host}, port {port}: {why}{remedy}") from None
    return plug


@contextmanager
def _warnings_of_loading() -> Iterator[None]:
    """Suppresses the library's warnings inside the block, except while a model is being loaded.

    Warnings about a request give advice for Python callers, and the client that sent it would not see them.
    """

    def is_of_loading(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING or is_loading.get()

    library, show = logging.getLogger("vocos_onnx"), warnings.showwarning

    def show_of_loading(*given: Any, **more: Any) -> None:
        if is_loading.get():
            show(*given, **more)

    library.addFilter(is_of_loading)
    warnings.showwarning = show_of_loading
    try:
        yield
    finally:
        warnings.showwarning = show
        library.removeFilter(is_of_loading)


def _log_to_stderr(access: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("vocos-onnx: %(message)s"))
    for name, level in (("uvicorn.error", logging.WARNING), ("uvicorn.access", logging.INFO)):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.propagate = False
        if name == "uvicorn.error" or access:
            logger.addHandler(handler)
