"""Runs the service: its socket, the server, and how it ends."""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn

from vocos_onnx.model.bundled import find_model
from vocos_onnx.model.config import ENCODER_KEY, METADATA_KEY
from vocos_onnx.model.mistaken import missing_message
from vocos_onnx.model.names import is_hub_id

from .app import Service, create_app
from .settings import Settings

MESSAGE = 1 << 20  # bytes of a WebSocket message
_log = logging.getLogger("vocos_onnx.serve")


def run(settings: Settings, announce: Callable[[str], object] = print) -> None:
    """Serve until SIGTERM or SIGINT. The handler that the signal had before is called at the end.

    Args:
        settings: everything that can be set.
        announce: is called with one line when the service listens.

    Raises:
        FileNotFoundError: a model is no file that is there, and no id on the hub.
        OSError: it cannot listen at that address, as where the port is in use.
        RuntimeError: the default model cannot be loaded; the log has the reason.

    Example:
        >>> run(Settings(port=8000))
    """
    _check_models(settings)
    app, service = create_app(settings)
    options: dict[str, Any] = {
        "loop": "asyncio",
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
        with suppress(ValueError):
            if settings.token is None and not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
                _log.warning("other machines can use the service, and no token is asked for: set VOCOS_TOKEN to ask")
        if "*" in settings.cors and settings.token is None:
            _log.warning("pages of any site can use the service, and no token is asked for: set VOCOS_TOKEN to ask")
        first, *others = service.models.names
        names = ", ".join([f"{first} (default)", *others])
        token = "no token is asked for" if settings.token is None else "a token is asked for"
        shown_host = f"[{host}]" if ":" in host else host
        line = f"http://{shown_host}:{port} serves {names}; {token}"
        _Server(uvicorn.Config(app, **options), service, lambda: announce(line)).run([plug])
    if service.failed is not None:
        raise RuntimeError(f"the service has ended: {service.failed}")


class _Server(uvicorn.Server):
    """uvicorn's, which says when it listens, and tells the service that it ends as soon as it is told."""

    def __init__(self, config: uvicorn.Config, service: Service, announce: Callable[[], object]) -> None:
        super().__init__(config)
        self._service, self._announce = service, announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()

    async def on_tick(self, counter: int) -> bool:
        return self._service.failed is not None or await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.ending = True
        super().handle_exit(sig, frame)


def _check_models(settings: Settings) -> None:
    """Raises FileNotFoundError for what cannot be loaded, whenever it is asked for."""
    for source in settings.models:
        for given, key in ((source.model, METADATA_KEY), (source.encoder, ENCODER_KEY)):
            if given is not None and not is_hub_id(given) and not find_model(given).exists():
                raise FileNotFoundError(missing_message(given, key))


def _bound(host: str, port: int) -> socket.socket:
    """A socket of that address, which does not listen yet. Raises OSError."""
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
        raise OSError(f"cannot listen on {host}, port {port}: {getattr(error, 'strerror', None) or error}") from None
    return plug


def _log_to_stderr(access: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("vocos-onnx: %(message)s"))
    for name, level in (("uvicorn.error", logging.WARNING), ("uvicorn.access", logging.INFO)):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.propagate = False
        if name == "uvicorn.error" or access:
            logger.addHandler(handler)
