"""Tests the page and recordings as the application sends them; tests/browser/check_page.py tests the page in use."""

from __future__ import annotations

import asyncio
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from starlette.applications import Starlette

import vocos_onnx.serve.page
from vocos_onnx.model.bundled import bundled_file
from vocos_onnx.serve.page import SAMPLES, routes

FOLDER = Path(vocos_onnx.serve.page.__file__).with_suffix("")


def get(path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Sends a GET; returns the status, headers and body of the answer."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    lines = [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": lines,
        "http_version": "1.1",
    }
    asyncio.run(Starlette(routes=routes())(scope, receive, send))
    given = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], given, b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize(
    "path", ["/", *(f"/page/{p.name}" for p in sorted(FOLDER.iterdir()) if p.name != "index.html")]
)
def test_files(path: str) -> None:
    status, headers, body = get(path)
    assert status == 200
    assert body == (FOLDER / (path.removeprefix("/page/") if path != "/" else "index.html")).read_bytes()
    kind = {"": "html", "html": "html", "css": "css", "js": "javascript", "svg": "svg+xml"}[
        path.rpartition(".")[2].strip("/")
    ]
    assert kind in headers["content-type"]
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/", "/page/app.js", f"/v1/samples/{SAMPLES[0].name}"])
def test_what_is_known_is_not_sent_again(path: str) -> None:
    etag = get(path)[1]["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        status, headers, body = get(path, If_None_Match=known)
        assert (status, body, headers["etag"]) == (304, b"", etag)
    assert get(path, If_None_Match='"other"')[0] == 200


def test_everything_is_in_the_folder_and_nothing_is_inline() -> None:
    page = get("/")[2].decode()
    for link in re.findall(r'(?:src|href)="([^"#]+)"', page):
        assert link == "openapi.json" or get(f"/{link}")[0] == 200, link
    assert not re.search(r"<script(?! type=\"module\" src=)|<style|\sstyle=|\son\w+=", page)
    for path in FOLDER.glob("*.js"):
        for module in re.findall(r'from "\./([^"]+)"', path.read_text()):
            assert get(f"/page/{module}")[0] == 200, module


@pytest.mark.parametrize(
    "path", ["/page/", "/page/index.html", "/page/../page.py", "/page/%2e%2e/page.py", "/page/none.js"]
)
def test_nothing_else_is_sent(path: str) -> None:
    assert get(path)[0] == 404


def test_samples() -> None:
    listed = json.loads(get("/v1/samples")[2])["samples"]
    assert [sample["name"] for sample in listed] == [path.stem for path in sorted(bundled_file("").glob("*.flac"))]
    for sample in listed:
        status, headers, body = get(f"/v1/samples/{sample['name']}")
        assert status == 200 and headers["content-type"] == "audio/wav"
        audio, sample_rate = soundfile.read(io.BytesIO(body), dtype="int16")
        expected, expected_rate = soundfile.read(bundled_file(f"{sample['name']}.flac"), dtype="int16")
        assert sample_rate == expected_rate and np.array_equal(audio, expected)
        assert round(len(audio) / sample_rate, 3) == sample["seconds"]


@pytest.mark.parametrize(
    "name", ["none", "../speech_ja_css10_22k", "speech_ja_css10_22k.flac", "vocos-codec-24khz.onnx"]
)
def test_no_other_recording(name: str) -> None:
    assert get(f"/v1/samples/{name}")[0] == 404
