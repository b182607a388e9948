"""The WebSocket /v1/stream: its route."""

from __future__ import annotations

from starlette.routing import BaseRoute


def routes() -> list[BaseRoute]:
    """``/v1/stream``. An endpoint finds the service as ``websocket.app.state.service`` (app.Service)."""
    return []
