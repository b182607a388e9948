"""Follows the Dockerfile without Docker, in folders and virtual environments, and tests the result.

    python .ci/image.py CHECKOUT FOLDER

A folder whose /usr/local is a virtual environment of this Python stands in for python:3.12-slim. It checks that each
step runs; that one layer has all the models, and the layers after it, with the code, take less than 2 megabytes; that
no sources are left; and that the image's service answers, requires the token, is healthy according to its HEALTHCHECK
while it runs, and stops on SIGTERM.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from pathlib import Path

VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
PATHS = re.compile(r"(?<![\w.:/-])/(?=(?:src|app|package|usr|requirements)\b)")


def follow(checkout: Path, folder: Path) -> tuple[Path, list[tuple[str, int, list[str]]], list[str], list[str]]:
    """Returns the last stage's root, what each of its steps added (step, bytes, names), its CMD and HEALTHCHECK."""
    stages: dict[str, Path] = {}
    settings: dict[str, str] = {}
    root = folder
    layers: list[tuple[str, int, list[str]]] = []
    command: list[str] = []
    healthcheck: list[str] = []
    text = (checkout / "Dockerfile").read_text(encoding="utf-8")
    versions = set(re.findall(r"(?:FROM python:|lib/python)(\d+\.\d+)", text))
    assert len(versions) == 1, versions
    for line in text.replace("\\\n", " ").splitlines():
        step, _, rest = line.partition(" ")
        if not step or step.startswith("#"):
            continue
        print(line[:118], flush=True)
        if step == "FROM":
            words = rest.split()
            root, layers = folder / f"stage{len(stages)}", []
            stages[words[-1] if "AS" in words else ""] = root
            if words[0] in stages:
                shutil.copytree(stages[words[0]], root, symlinks=True)
            else:
                venv.create(root / "usr/local", with_pip=True)
        elif step in ("ENV", "ARG"):
            settings |= dict(setting.split("=", 1) for setting in shlex.split(rest))
        elif step in ("COPY", "RUN"):
            before = state(root)
            if step == "COPY":
                copy(rest.split(), stages, checkout, root)
            elif not rest.startswith("useradd "):
                text = PATHS.sub(f"{root}/", rest).replace("pip install", "python -m pip install")
                path = f"{root}/usr/local/bin:{os.environ['PATH']}"
                subprocess.run(
                    ["bash", "-ec", text], check=True, cwd=root, env={**os.environ, **settings, "PATH": path}
                )
            new = {name: size for name, size in state(root).items() if before.get(name) != size}
            layers.append((line, sum(size for size, _ in new.values()), list(new)))
        elif step == "CMD":
            command = json.loads(rest)
        elif step == "HEALTHCHECK":
            healthcheck = json.loads(rest.partition(" CMD ")[2])
    return root, layers, command, healthcheck


def copy(words: list[str], stages: dict[str, Path], checkout: Path, root: Path) -> None:
    base = checkout
    if words[0].startswith("--from="):
        base = stages[words.pop(0).removeprefix("--from=")]
    *sources, target = words
    to = root / target.replace("python3.12", VERSION).lstrip("/")
    for source in (base / source.lstrip("/") for source in sources):
        if source.is_dir():
            shutil.copytree(source, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            assert target.endswith("/"), words
            to.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, to)


def state(root: Path) -> dict[str, tuple[int, int]]:
    files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def serve(root: Path, command: list[str], healthcheck: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    words = [{"0.0.0.0": "127.0.0.1", "8000": port}.get(word, word) for word in command]
    binaries = root / "usr/local/bin"
    python = binaries / "python"  # scripts have the shebang of the stage that installed them
    demo = "import json, vocos_onnx; print(json.dumps({'tokens': vocos_onnx.demo_tokens().codes.tolist()}))"
    tokens = subprocess.run([python, "-I", "-c", demo], check=True, capture_output=True).stdout
    url, headers = f"http://127.0.0.1:{port}", {"Authorization": "Bearer a-token"}
    assert healthcheck[0] == "python" and "127.0.0.1:8000" in healthcheck[-1], healthcheck
    asked = [word.replace("127.0.0.1:8000", f"127.0.0.1:{port}") for word in healthcheck[1:]]
    check: list[str | Path] = [python, *asked]
    environment = {**os.environ, "VOCOS_TOKEN": "a-token"}
    with subprocess.Popen([python, binaries / words[0], *words[1:]], cwd=root / "app", env=environment) as service:
        try:
            for _ in range(300):
                try:
                    urllib.request.urlopen(f"{url}/readyz", timeout=10).close()
                    break
                except OSError:
                    assert service.poll() is None, service.returncode
                    time.sleep(0.1)
            request = urllib.request.Request(f"{url}/v1/decode", tokens, headers)
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert len(answer.read()) > 400_000
            try:
                urllib.request.urlopen(f"{url}/v1/models", timeout=10).close()
                raise AssertionError("no token was asked for")
            except urllib.error.HTTPError as error:
                assert error.code == 401
            subprocess.run(check, check=True, timeout=10)
            service.send_signal(signal.SIGTERM)
            assert service.wait(10) in (-signal.SIGTERM, 128 + signal.SIGTERM)  # a shell and Docker report 143
            assert subprocess.run(check, stderr=subprocess.DEVNULL, timeout=10).returncode != 0
        finally:
            service.kill()


def main(checkout: Path, folder: Path) -> None:
    root, layers, command, healthcheck = follow(checkout.resolve(), folder.resolve())
    models = [line for line, _, names in layers if any("vocos_onnx/models/" in name for name in names)]
    assert len(models) == 1 and models[0].startswith("COPY models "), models
    after = layers[[line for line, _, _ in layers].index(models[0]) + 1 :]
    assert any("vocos_onnx/vocoder.py" in name for _, _, names in after for name in names), after
    for line, size, _ in layers:
        print(f"{size / 1e6:8.2f} MB  {line[:100]}")
    assert sum(size for _, size, _ in after) < 2e6
    assert not (root / "src").exists()
    serve(root, command, healthcheck)


main(Path(sys.argv[1]), Path(sys.argv[2]))
