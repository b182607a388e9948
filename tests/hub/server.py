"""A local hub: just the requests that huggingface_hub makes to huggingface.co to find and download files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """``repositories[owner/name][commit]`` is a folder of files; ``refs[owner/name][branch or tag]`` is a commit."""

    repositories: dict[str, dict[str, Path]]
    refs: dict[str, dict[str, str]]
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    fault: str | None = None  # one of the faults below
    gated: set[str] = field(default_factory=set)
    stop_at: str | None = None  # for files of this name, sends the first half and then stalls
    ended: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Run the hub within the context, which gives its URL."""
        handler = type("Handler", (_Handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            self.ended.set()
            server.shutdown()
            server.server_close()
            thread.join()

    def find(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for /{owner}/{name}/resolve/{revision}/{file} and for the API's requests."""
        of_api = path.startswith("/api/models/")
        path = path.removeprefix("/api/models")
        owner, name, verb, revision, *rest = [*unquote(path).strip("/").split("/"), "", "", "", ""]
        repository, file = f"{owner}/{name}", "/".join(rest).strip("/")
        if of_api and not verb:
            verb, revision = "revision", "main"
        if verb not in (("tree", "revision") if of_api else ("resolve",)) or repository not in self.repositories:
            return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b""
        if repository in self.gated and not of_api:
            return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model is restricted"}, b""
        commits = self.repositories[repository]
        commit = self.refs[repository].get(revision, revision)
        if commit not in commits:
            return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"}, b""
        headers = {"X-Repo-Commit": commit}
        if verb == "revision":
            found = [path.relative_to(commits[commit]).as_posix() for path in commits[commit].rglob("*")]
            info: dict[str, object] = {
                "id": repository,
                "sha": commit,
                "siblings": [{"rfilename": name} for name in found],
            }
            info |= {"private": False, "downloads": 0, "likes": 0, "tags": []}  # older clients need these
            return 200, {"Content-Type": "application/json"}, json.dumps(info).encode()
        if of_api:
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
        if self.command != "GET":
            return
        if self.hub.stop_at is not None and self.path.endswith(self.hub.stop_at):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.hub.ended.wait()
            return
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        pass
