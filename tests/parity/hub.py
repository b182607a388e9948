"""A hub on this machine: what huggingface_hub asks of huggingface.co to download a file, and no more; its customers."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """``repositories[owner/name][commit]`` is a folder of files, ``refs[owner/name][branch or tag]`` a commit."""

    repositories: dict[str, dict[str, Path]]
    refs: dict[str, dict[str, str]]
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    fault: str | None = None  # one of those below

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Inside it the hub runs, at the URL that it gives."""
        handler = type("Handler", (_Handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def find(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for /{owner}/{name}/resolve/{revision}/{file}, and for the list of files."""
        listing = path.startswith("/api/models/")
        path = path.removeprefix("/api/models")
        owner, name, verb, revision, *rest = [*unquote(path).strip("/").split("/"), "", "", "", ""]
        repository, file = f"{owner}/{name}", "/".join(rest).strip("/")
        if verb != ("tree" if listing else "resolve") or repository not in self.repositories:
            return 404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b""
        commits = self.repositories[repository]
        commit = self.refs[repository].get(revision, revision)
        if commit not in commits:
            return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"}, b""
        headers = {"X-Repo-Commit": commit}
        if listing:
            files = [{"type": "file", "path": f.name, "oid": "0" * 40, "size": 1} for f in commits[commit].iterdir()]
            return 200, {"Content-Type": "application/json"}, json.dumps(files).encode()
        if not (commits[commit] / file).is_file():
            return 404, {**headers, "X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}, b""
        body = (commits[commit] / file).read_bytes()
        return 200, {**headers, "ETag": f'"{hashlib.sha256(body).hexdigest()}"'}, body


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status, headers, body = self.hub.find(urlsplit(self.path).path)
        self.hub.requests.append((self.command, self.path, status))
        match self.hub.fault:
            case "redirects without end":
                status, headers["Location"], body = 302, self.path + "x", b""
            case "another scheme":
                status, headers["Location"], body = 302, "file:///etc/passwd", b""
            case "a place that is none":
                status, headers["Location"], body = 302, "http://[::x/", b""
            case "not compressed":
                headers["Content-Encoding"] = "gzip"
            case "no HTTP":
                self.wfile.write(b"\0\1\2\r\n\r\n")
                self.close_connection = True
                return
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        cut = self.hub.fault == "cut"
        self.send_header("Content-Length", str(len(body) + 1000 * cut))
        self.close_connection = cut
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        pass


_PRETRAINED = """
import json, sys
from vocos_onnx import VocosONNX
for arguments in json.load(sys.stdin):
    try:
        result = ["ok", VocosONNX.from_pretrained(**arguments).config.source.name]
    except Exception as error:
        result = [type(error).__name__, str(error)]
    print(json.dumps(result))
"""

_IN_A_PROCESS = """
import json, sys
import vocos_onnx_export
from vocos_onnx_export.checkpoint import load

export = getattr(vocos_onnx_export, sys.argv[1])
for arguments in json.load(sys.stdin):
    try:
        if "output" in arguments:
            source = export(**arguments, report=lambda line: None).source
        else:
            source = load(**arguments)
        result = [source.name, source.revision, source.sha256]
    except Exception as error:
        result = [type(error).__name__, str(error)]
    print(json.dumps(result))
"""


def in_a_process(export: str, cases: list[dict[str, str]], home: Path, **variables: str) -> list[list[str]]:
    """Export each case by that function, or only load a vocoder where it has no output; -> name, revision, sha256.

    Or an error: its kind and its message.
    """
    return _run([_IN_A_PROCESS, export], cases, home, variables)


def pretrained(cases: Sequence[Mapping[str, object]], home: Path, **variables: str) -> list[list[str]]:
    """VocosONNX.from_pretrained of each case: "ok" and the name of its source, or an error's kind and message."""
    return _run([_PRETRAINED], cases, home, variables)


def _run(code: list[str], cases: object, home: Path, variables: dict[str, str]) -> list[list[str]]:
    """In a process of its own, since huggingface_hub reads its environment when it is imported."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", *code],
        input=json.dumps(cases),
        env={**kept, "HF_HOME": str(home), "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
