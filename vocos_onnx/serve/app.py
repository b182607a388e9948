"""The application: its routes, and what they share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from . import page, websocket
from .models import Models
from .settings import Settings


class Service:
    """What the routes share; they find it as ``request.app.state.service``.

    Attributes:
        settings: everything that was set.
        models: by name, loaded when first asked for.
        ending: whether the service has been told to end.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.models = Models(settings)
        self.ending = False

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        first = asyncio.create_task(self.models.get())
        yield
        first.cancel()
        self.models.close()


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def healthz(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    service = service_of(request)
    state = "ending" if service.ending else "ok" if service.models.is_ready() else "loading"
    return JSONResponse({"status": state}, 200 if state == "ok" else 503)


async def list_models(request: Request) -> Response:
    return JSONResponse(service_of(request).models.describe())


async def say(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def create_app(settings: Settings) -> Starlette:
    """The ASGI application."""
    service = Service(settings)
    routes: list[BaseRoute] = [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/v1/models", list_models),
        *websocket.routes(),
        *page.routes(),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: say}, lifespan=service.lifespan)
    app.state.service = service
    return app
