"""The web page at ``/``, its files, and the bundled recordings it offers."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import io
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from vocos_onnx.model.bundled import bundled_file

from .queries import check_query
from .wording import unknown

_FOLDER = Path(__file__).with_suffix("")  # page/, beside this module
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# The page loads only from this service and cannot be framed. Its players play blobs that the page has fetched.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; media-src blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Sample(NamedTuple):
    """A bundled recording: its file in models/ without the ending, a title, and its length in seconds."""

    name: str
    title: str
    seconds: float


SAMPLES = (
    Sample("speech_en_m_joe_48k_stereo", "English, a man", 8.413),
    Sample("speech_it_f_paola_48k", "Italian, a woman", 6.109),
    Sample("speech_ja_css10_22k", "Japanese, a man", 5.817),
)


def routes() -> list[BaseRoute]:
    """Returns the routes ``/``, ``/page/<file>``, ``/v1/samples`` and ``/v1/samples/<name>``."""
    files = {path.name: path for path in _FOLDER.iterdir() if path.suffix in _KINDS}
    return [
        Route("/", _serve(files.pop("index.html"))),
        *(Route(f"/page/{name}", _serve(path)) for name, path in files.items()),
        Route("/v1/samples", _list_samples),
        Route("/v1/samples/{name}", _send_sample),
    ]


def _serve(path: Path) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """Returns an endpoint that sends this file. The file is read once, here."""
    content, kind = path.read_bytes(), _KINDS[path.suffix]
    etag = _etag(content)

    async def send(request: Request) -> Response:
        return _unless_known(request, content, etag, kind, _HEADERS)

    return send


def _etag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def _unless_known(request: Request, content: bytes, etag: str, kind: str, headers: dict[str, str]) -> Response:
    """Returns the content, or 304 if the client's cached copy is current. Clients may cache but must revalidate."""
    headers = {**headers, "ETag": etag, "Cache-Control": "no-cache"}
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")}
    if known & {etag, "*"}:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=kind)


async def _list_samples(request: Request) -> Response:
    check_query(request)
    return JSONResponse({"samples": [sample._asdict() for sample in SAMPLES]})


async def _send_sample(request: Request) -> Response:
    check_query(request)
    name = request.path_params["name"]
    if name not in {sample.name for sample in SAMPLES}:
        raise HTTPException(404, f"there is no recording {unknown(name, [sample.name for sample in SAMPLES])}")
    content, etag = await asyncio.to_thread(_wav, name)
    return _unless_known(request, content, etag, "audio/wav", {"X-Content-Type-Options": "nosniff"})


@functools.cache
def _wav(name: str) -> tuple[bytes, str]:
    """Returns a bundled recording, stored as 16-bit FLAC, as WAV, and its ETag."""
    import soundfile

    audio, sample_rate = soundfile.read(bundled_file(f"{name}.flac"), dtype="int16")
    file = io.BytesIO()
    soundfile.write(file, audio, sample_rate, format="WAV", subtype="PCM_16")
    return file.getvalue(), _etag(file.getvalue())
