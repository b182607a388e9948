"""The ASGI application: its routes, and the state they share."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from http import HTTPStatus
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match, Route

from vocos_onnx.arrays import Float
from vocos_onnx.bandwidths import DEFAULT_BANDWIDTH, bandwidth_index
from vocos_onnx.encoder import EncodecONNX
from vocos_onnx.io.tokens import Tokens, of_no_codec, save_tokens
from vocos_onnx.mels import MelConvention, convention_of
from vocos_onnx.messages import listed, shown
from vocos_onnx.model.registry import ENCODEC_ENCODER
from vocos_onnx.once import first_time

from . import page, websocket
from .access import Access
from .answers import BLOCK, CHUNK, TOKENS, Answers, Work, chosen_format
from .bodies import Bodies, Recording, account_of, check_codebooks, check_values, codebooks_of_bandwidth
from .limits import Limits, Refused, Scope
from .metrics import Metrics
from .models import Model, Models, NotLoadedError, UnknownModelError
from .openapi import description
from .queries import check_query
from .settings import Settings
from .wording import one_of, said, short, unknown
from .workers import AGAIN, Clock, Workers

Value = TypeVar("Value")
_log = logging.getLogger("vocos_onnx.serve")

# paths whose answers are small and quick, and which need no place in the queue
FREE = ("/", "/page/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/models")
_ID = "a number from 0 on, the place of the bandwidth in those that GET /v1/models lists"
_NUMBER = r"[+-]?(\d{1,9}\.?\d{0,9}|\.\d{1,9})(e[+-]?\d{1,2})?"


class Service:
    """The state that all routes share, available to them as ``request.app.state.service``.

    Attributes:
        settings: the settings of the service.
        models: the models by name, each loaded on first use.
        metrics: the counters at /metrics.
        access: who may use the service. A request has already been admitted when it reaches its route; the WebSocket
            endpoint calls ``access.refusal(scope)`` itself.
        limits: the bounds on requests and connections, and the current counts.
        workers: the threads that compute.
        sockets: the open WebSockets.
        ending: whether the service has been told to shut down.
    """

    limits: Limits

    def __init__(self, settings: Settings) -> None:
        self.settings, self.ending = settings, False
        self.sockets: set[websocket.Connection] = set()
        self.metrics, self.access = Metrics(), Access(settings)
        self.models = Models(settings, lambda name, ok: self.metrics.loads.labels(name, "ok" if ok else "failed").inc())
        self.workers = Workers(settings.workers)
        self.bodies, self.answers = Bodies(settings, self.workers), Answers(self.workers, self.metrics)
        self.metrics.streams.set_function(lambda: sum(model.open_streams() for model in self.models.loaded))
        for name, text, value in (
            ("requests_in_progress", "Requests that are worked on or wait for it", lambda: self.limits.working),
            ("calls_waiting", "Calls that wait for a worker", lambda: self.workers.waiting),
            ("held_bytes", "Bytes that are held for requests", lambda: self.limits.held),
            ("connections_open", "Connections", lambda: self.limits.open_connections),
            ("websockets_open", "WebSockets", lambda: self.limits.open_sockets),
        ):
            self.metrics.gauge(name, text, value)
        self.failed: Exception | None = None
        """Why the default model could not be loaded at the start, if it could not."""

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        first = asyncio.create_task(self._load_default())
        yield
        first.cancel()
        self.models.close()
        self.workers.close()

    async def _load_default(self) -> None:
        try:
            await self.models.load_default()
        except NotLoadedError as error:
            self.failed = error

    @property
    def state(self) -> str:
        """ "ok", or the reason to send requests elsewhere: "ending", "loading" or "full"."""
        if self.ending:
            return "ending"
        if not self.models.is_ready():
            return "loading"
        return "full" if self.limits.working >= self.limits.places else "ok"


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


# Parameters of requests


async def _model(request: Request) -> Model:
    """Returns the model the request names. Raises HTTPException: 404 if unknown, 503 if it cannot be loaded."""
    try:
        return await service_of(request).models.get(request.query_params.get("model"))
    except UnknownModelError as error:
        raise HTTPException(404, str(error)) from None
    except NotLoadedError as error:
        raise HTTPException(503, str(error), {"Retry-After": "10"}) from None


def _parameter(request: Request, name: str, pattern: str, kind: Callable[[str], Value], what: str) -> Value | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not re.fullmatch(pattern, text, re.ASCII):
        raise HTTPException(400, f"{name} is {text[:40]!r}, expected {what}")
    return kind(text)


def _bandwidth(request: Request) -> float | None:
    return _parameter(
        request, "bandwidth", _NUMBER, float, "a number of kbps; GET /v1/models lists those of each model"
    )


def _no_bandwidth(bandwidth: float, model: Model) -> str:
    return f"bandwidth is {bandwidth:g}, but {model.name} is a mel model, without tokens: leave it out"


def _streamed(request: Request) -> bool:
    return bool(_parameter(request, "stream", "true|false|1|0", lambda text: text in ("true", "1"), "true or false"))


@contextlib.contextmanager
def _bad_input() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise HTTPException(400, str(error)) from None


# Routes


async def decode(request: Request) -> Response:
    """Decodes tokens or mels to audio."""
    check_query(request, "model", "bandwidth", "bandwidth_id", "mels_from", "key", "format", "stream")
    format, streamed = chosen_format(request), _streamed(request)
    bandwidth = _bandwidth(request)
    bandwidth_id = _parameter(request, "bandwidth_id", r"[+-]?\d{1,9}", int, _ID)
    mels_from = request.query_params.get("mels_from")
    if bandwidth is not None and bandwidth_id is not None:
        raise HTTPException(
            400,
            f"bandwidth is {bandwidth:g}, which decodes the first codebooks, those of {bandwidth:g} kbps, and "
            f"bandwidth_id is {bandwidth_id}, for tokens that have the codebooks of that id: give one of the two",
        )
    model, service, clock = await _model(request), service_of(request), Clock()
    vocos, config = model.vocos, model.vocos.config
    convention: MelConvention | None = None
    with _bad_input():
        if bandwidth is not None:
            if not model.is_codec:
                raise ValueError(_no_bandwidth(bandwidth, model))
            bandwidth_index(bandwidth, vocos.bandwidths)
        if mels_from is not None:
            if model.is_codec:
                mel = service.models.first("mels")
                other = "leave it out" if mel is None else f"leave it out, or name a mel model, as model={mel}"
                raise ValueError(f"mels_from is {shown(mels_from)}, but {model.name} decodes tokens: {other}")
            convention = convention_of(mels_from, config.feature_channels)
    given = await service.bodies.arrays(request, model, convention, request.query_params.get("key"), clock)
    if bandwidth is not None:
        with _bad_input():
            given = codebooks_of_bandwidth(given, model, bandwidth)
    with _bad_input():
        check_codebooks(given, model, bandwidth_id)
    await service.workers.run(check_values, given, model, clock=clock)
    if bandwidth is not None and config.num_bandwidth_ids:
        bandwidth_id = vocos.bandwidths.index(bandwidth)
    axis = 0 if convention is not None and convention.axes == "btc" else 1
    if model.is_codec and given.sample_rate not in (None, config.sample_rate):
        raise HTTPException(
            400,
            f"sample_rate is {given.sample_rate}, and the samples of these tokens are counted at "
            f"{config.sample_rate} Hz: leave sample_rate out, or give {config.sample_rate} and samples at that rate",
        )
    samples = config.samples(given.codes.shape[axis])
    if model.is_codec and given.samples is not None:  # as on the command line: the recording may end within a frame
        if not samples - config.hop_length < given.samples <= samples:
            raise HTTPException(
                400,
                f"samples is {given.samples}, but {given.codes.shape[axis]} frames are of "
                f"{samples - config.hop_length + 1} to {samples} of them: send all tokens, or leave samples out",
            )
        samples = given.samples

    def begin() -> Iterator[Float]:
        return _decoded(model, given, bandwidth_id, convention, axis, CHUNK if streamed else BLOCK)

    warning = None
    if model.is_codec and given.anonymous:
        assert config.encodec is not None
        warning = of_no_codec("the body", config.encodec.codec)
        if first_time(f"no codec for {model.name}"):
            _log.warning("%s (said once for %s)", warning, model.name)
    work = Work(model, "/v1/decode", begin, lambda: samples, samples, True, clock, warning)
    try:
        if not streamed:
            return await service.answers.whole(request, work, format)
        return await service.answers.streamed(request, work, format, AsyncExitStack())
    except HTTPException as error:
        error.detail = service.models.with_remedy(error.detail, given, model)
        raise


def _decoded(
    model: Model, given: Tokens, bandwidth_id: int | None, convention: MelConvention | None, axis: int, chunk: int
) -> Iterator[Float]:
    """Returns an iterator over the audio, ``chunk`` frames at a time; all at once if the model cannot be streamed."""
    vocos, frames = model.vocos, given.codes.shape[axis]
    options: dict[str, Any] = {"mels_from": convention, "check": None if model.is_codec else True}
    if not vocos.network.is_streamable or frames <= chunk:
        return iter([vocos.decode(given, bandwidth_id, **options)])
    spans = (slice(first, first + chunk) for first in range(0, frames, chunk))
    chunks = (replace(given, codes=given.codes[span] if axis == 0 else given.codes[:, span]) for span in spans)
    return vocos.decode_stream(chunks, bandwidth_id, **options)


async def resynth(request: Request) -> Response:
    """Analyzes a recording and synthesizes it again with the model."""
    check_query(request, "model", "bandwidth", "format", "stream")
    format, streamed, bandwidth = chosen_format(request), _streamed(request), _bandwidth(request)
    model, service, clock = await _model(request), service_of(request), Clock()
    vocos = model.vocos
    if bandwidth is not None and not model.is_codec:
        raise HTTPException(400, _no_bandwidth(bandwidth, model))
    if model.is_codec:
        _encoder_of(model)
        with _bad_input():
            bandwidth_index(DEFAULT_BANDWIDTH if bandwidth is None else bandwidth, vocos.bandwidths)
    async with AsyncExitStack() as stack:
        recording = await stack.enter_async_context(service.bodies.recording(request, vocos.sample_rate, clock))

        def begin() -> Iterator[Float]:
            chunk = CHUNK if streamed else None
            blocks, rate = recording.blocks(), vocos.sample_rate
            return vocos.resynth_stream(blocks, rate, bandwidth=bandwidth, encoder=model.encoder, chunk=chunk)

        work = Work(model, "/v1/resynth", begin, lambda: recording.read, recording.expected, False, clock)
        if not streamed:
            return await service.answers.whole(request, work, format)
        answer = await service.answers.streamed(request, work, format, kept := AsyncExitStack())
        kept.push_async_exit(stack.pop_all())  # keep the file until the answer ends
        return answer


async def encode(request: Request) -> Response:
    """Encodes a recording to tokens."""
    check_query(request, "model", "bandwidth", "format")
    format, bandwidth = chosen_format(request, TOKENS), _bandwidth(request)
    model, service, clock = await _model(request), service_of(request), Clock()
    if not model.is_codec:
        codec = service.models.first("tokens")
        remedy = "the service has no codec" if codec is None else f"name a codec, as model={codec}"
        raise HTTPException(400, f"{model.name} is a mel model, without tokens: {remedy}")
    encoder = _encoder_of(model)
    bandwidth = DEFAULT_BANDWIDTH if bandwidth is None else bandwidth
    with _bad_input():
        index = bandwidth_index(bandwidth, encoder.bandwidths)
    async with service.bodies.recording(request, encoder.sample_rate, clock) as recording:
        codes = await _encoded(request, encoder, recording, bandwidth, clock)
        count = encoder.config.codebooks_per_bandwidth[index]
        named = Tokens(
            codes,
            recording.read,
            encoder.sample_rate,
            encoder.config.codec,
            encoder.config.codebooks_sha256[count - 1],
        )
        if format == "json":
            async with service.workers.one_json:
                data = await service.workers.run(_json, named, clock=clock)
        else:
            data = await service.workers.run(_npz, named, clock=clock)
    account_of(request).hold(len(data))
    milliseconds = f"{1000 * clock.seconds:.1f}"
    service.metrics.compute.labels("/v1/encode").observe(clock.seconds)
    headers = {
        "X-Vocos-Model": model.name,
        "X-Vocos-Seconds": f"{recording.read / encoder.sample_rate:.4f}".rstrip("0").rstrip("."),
        "X-Vocos-Compute-Ms": milliseconds,
        "Server-Timing": f"compute;dur={milliseconds}",
        "Cache-Control": "no-store",
    }
    return Response(data, headers=headers, media_type=TOKENS[format].media)


def _encoder_of(model: Model) -> EncodecONNX:
    if model.encoder is None:
        codec = model.vocos.config.encodec
        encoder = ENCODEC_ENCODER if codec is not None and codec.codec == "encodec_24khz" else "ENCODER"
        raise HTTPException(
            400,
            f"{model.name} has no encoder here, so it decodes tokens and takes no recordings: start the service with "
            f"--encoder {model.name}={encoder}",
        )
    return model.encoder


async def _encoded(
    request: Request, encoder: EncodecONNX, recording: Recording, bandwidth: float, clock: Clock
) -> npt.NDArray[Any]:
    """Returns the tokens (K, T) of a recording, and gives other clients a turn after each chunk."""
    account, workers = account_of(request), service_of(request).workers
    smallest = np.min_scalar_type(encoder.config.codebook_size - 1)
    parts: list[npt.NDArray[Any]] = []
    before = account.held
    chunks: Iterator[npt.NDArray[Any]] | None = None

    def some() -> bool:
        """Encodes one chunk. Returns whether there was one."""
        nonlocal chunks
        if chunks is None:
            chunks = encoder.encode_stream(recording.blocks(), encoder.sample_rate, bandwidth)
        part = next(chunks, None)  # tokens of a few seconds of audio
        if part is not None:
            parts.append(part.astype(smallest))
        return part is not None

    is_short = 0 < recording.expected <= BLOCK * encoder.hop_length
    if not is_short:
        account.long()
    async with contextlib.nullcontext() if is_short else workers.turns:
        while await workers.run(some, clock=clock):
            account.hold(before + 4 * sum(part.nbytes for part in parts))  # room to join them and write the file
    return np.concatenate(parts, axis=1)


def _npz(tokens: Tokens) -> bytes:
    file = io.BytesIO()
    save_tokens(file, tokens)
    return file.getvalue()


def _json(tokens: Tokens) -> bytes:
    rows = ",".join(f"[{','.join(map(str, row.tolist()))}]" for row in tokens.codes)
    more = {
        "samples": tokens.samples,
        "sample_rate": tokens.sample_rate,
        "codec": tokens.codec,
        "codebooks_sha256": tokens.codebooks_sha256,
    }
    return f'{{"tokens":[{rows}],{json.dumps(more)[1:]}'.encode()


async def healthz(_: Request) -> Response:
    """Answers that the service is alive."""
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Answers whether the service is ready for requests: 200 or 503, with the state and its current load."""
    service = service_of(request)
    state = service.state
    numbers = {"requests": service.limits.working, "held_bytes": service.limits.held}
    return JSONResponse({"status": state, **numbers}, 200 if state == "ok" else 503, {} if state == "ok" else AGAIN)


async def list_models(request: Request) -> Response:
    """Lists the models and what is known about each."""
    check_query(request)
    return JSONResponse(service_of(request).models.describe())


async def metrics(request: Request) -> Response:
    """Returns the counters in the format of Prometheus."""
    data, kind = service_of(request).metrics.exposition()
    return Response(data, headers={"Content-Type": kind})


async def openapi(request: Request) -> Response:
    """Returns the OpenAPI description of the routes."""
    return JSONResponse(description(needs_token=service_of(request).settings.token is not None))


async def say(request: Request, error: Exception) -> Response:
    """Answers an HTTPException with its reason as JSON."""
    assert isinstance(error, HTTPException)
    reason = said(error.detail, service_of(request).models.names)
    if reason == HTTPStatus(error.status_code).phrase:  # Starlette's own reason, which explains nothing
        refused = _elsewhere(request.scope, request.app.routes)
        reason = reason if refused is None else refused.reason
    return JSONResponse({"error": reason}, error.status_code, error.headers)


def _elsewhere(scope: Scope, routes: Sequence[BaseRoute]) -> Refused | None:
    """Returns the refusal of a request that matches no route: 404 for its path or 405 for its method; else None."""
    path, allowed = scope["path"], set[str]()
    for route in routes:
        match, _ = route.matches(scope)
        if match == Match.FULL:
            return None
        if match == Match.PARTIAL and isinstance(route, Route):
            allowed |= route.methods or set()
    if allowed:
        methods = one_of(sorted(allowed - {"HEAD"}))
        headers = [(b"allow", ", ".join(sorted(allowed)).encode())]
        reason = f"the method is {shown(scope['method'])}, and {listed([path])} takes {methods}"
        return Refused(405, reason, headers=headers)
    paths = [route.path for route in routes if isinstance(route, Route) and "/page/" not in route.path]
    return Refused(404, short(f"there is no path {unknown(path, paths)}"))


async def say_failed(_: Request, error: Exception) -> Response:
    """Answers 500 to a request that failed; limits.py logs where it failed."""
    return JSONResponse({"error": "the service has failed at this request"}, 500)


def routes() -> list[BaseRoute]:
    """Returns all routes of the service."""
    return [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
        Route("/openapi.json", openapi),
        Route("/v1/models", list_models),
        Route("/v1/decode", decode, methods=["POST"]),
        Route("/v1/resynth", resynth, methods=["POST"]),
        Route("/v1/encode", encode, methods=["POST"]),
        *websocket.routes(),
        *page.routes(),
    ]


def create_app(settings: Settings) -> tuple[Limits, Service]:
    """Returns the ASGI application and the state its routes share."""
    service, all_routes = Service(settings), routes()
    handlers: Any = {HTTPException: say, Exception: say_failed}
    app = Starlette(routes=all_routes, exception_handlers=handlers, lifespan=service.lifespan)
    app.router.redirect_slashes = False  # many clients do not repeat a POST; the 404 suggests the path instead
    app.state.service = service
    counted = service.metrics.layer(all_routes)

    def admitted(scope: Scope) -> Refused | None:
        # called before the body is read or requested (Expect: 100-continue); OPTIONS goes to the CORS layer first
        refused = service.access.refusal(scope)
        return _elsewhere(scope, all_routes) if refused is None and scope["method"] != "OPTIONS" else refused

    service.limits = Limits(
        app,
        places=settings.workers + settings.queue,
        long_places=max(1, settings.workers + settings.queue // 2),
        max_body=settings.max_body,
        memory=settings.memory,
        connections=settings.connections,
        end_seconds=settings.drain,
        free=FREE,
        admit=admitted,
        layer=lambda inner: counted(service.access.cors(inner)),
        options={
            "places": "--queue",
            "max_body": "--max-body",
            "memory": "--memory",
            "connections": "--connections",
            "sockets": "--connections",
        },
    )
    return service.limits, service
