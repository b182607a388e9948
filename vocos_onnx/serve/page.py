"""The page: its routes."""

from __future__ import annotations

from starlette.routing import BaseRoute


def routes() -> list[BaseRoute]:
    """``/`` and ``/page/<file>``."""
    return []
