"""Runs the service: its socket, the server, and how it ends."""

from __future__ import annotations

import socket
from typing import Any

from .app import create_app
from .settings import Settings

MESSAGE = 1 << 20  # bytes of a WebSocket message


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, whose handlers are then called. Raises OSError if it cannot listen there."""
    import uvicorn

    app = create_app(settings)
    options: dict[str, Any] = {
        "access_log": settings.access_log,
        "server_header": False,
        "lifespan": "on",
        "log_level": "info" if settings.access_log else "warning",
        "loop": "asyncio",
        "ws": "websockets-sansio",
        "ws_max_size": MESSAGE,
        "ws_ping_interval": 20.0,
        "ws_per_message_deflate": False,
        "timeout_graceful_shutdown": settings.drain,
    }
    with _listening(settings.host, settings.port) as plug:
        server = uvicorn.Server(uvicorn.Config(app, **options))
        server.run([plug])


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        plug = socket.socket(family, kind, number)
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        plug.bind(address)
    except OSError as error:
        raise OSError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from None
    return plug
