"""Runs the clients in docs/guides/service.md unchanged against the service; tests its systemd unit and deploy.md."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.helpers import ROOT
from tests.page import SHELL_PRELUDE
from tests.service.process import INSTALLED, Server
from vocos_onnx.cli.program import build_parser
from vocos_onnx.serve.settings import Settings

TEXT = (ROOT / "docs" / "guides" / "service.md").read_text(encoding="utf-8")
DEPLOY = ROOT / "docs" / "guides" / "deploy.md"
UNIT = ROOT / "examples" / "vocos-onnx.service"
ADDRESS = "127.0.0.1:8000"
TOKEN = "0123456789abcdef"
# Appended to the Python on the page, to check its results.
CHECKED = """
from vocos_onnx import VocosONNX, load_audio
expected = VocosONNX().decode(tokens)
assert np.abs(audio / 32768 - expected.clip(-1, 1 - 2**-15)).max() < 2 / 32768
copy = load_audio("copy.wav", 24000)
assert len(copy) == len(load_audio("speech.wav", 24000)) and copy.std() > 0.01
try:
    post("/v1/decode", b"")
except RuntimeError as error:
    assert "empty" in str(error)
else:
    raise AssertionError("a refusal was none")
"""


def run(command: str, folder: Path) -> str:
    """Returns what a shell prints with the package's environment active, and run outside the checkout."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    if entries := environment.pop("PYTHONPATH", None):  # relative entries mean the folder where it was set
        environment["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in entries.split(os.pathsep))
    script = ["bash", "-c", SHELL_PRELUDE + command]
    done = subprocess.run(script, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert "warning" not in done.stderr, done.stderr
    return done.stdout


def blocks(language: str, port: int) -> list[str]:
    """Returns the page's code blocks in a language, with the port of their service replaced."""
    found = re.findall(rf"```{language}\n(.*?)```", TEXT, re.S)
    return [block.replace(ADDRESS, f"127.0.0.1:{port}") for block in found]


def lines(port: int) -> list[str]:
    """Returns the shell commands on the page."""
    return [line for block in blocks("sh", port) for line in block.splitlines()]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("-m", "vocos_onnx", "serve", VOCOS_TOKEN=TOKEN) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recording and the tokens that the commands start from."""
    from vocos_onnx import EncodecONNX, demo_tokens, save_tokens

    path = tmp_path_factory.mktemp("docs")
    run("vocos-onnx demo speech.wav", path)
    save_tokens(path / "tokens.npz", demo_tokens().codes, EncodecONNX())
    return path


def test_python(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python blocks form one program, which takes the token from the environment."""
    monkeypatch.setenv("VOCOS_TOKEN", TOKEN)
    snippets = blocks("python", server.port)
    assert len(snippets) == 2
    (folder / "client.py").write_text("\n".join([*snippets, CHECKED]))
    run("python -W error client.py", folder)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl; tests/browser/check_clients.py needs it")
def test_curl(folder: Path) -> None:
    with Server("-m", "vocos_onnx", "serve") as server:
        demo, *commands = (line for line in lines(server.port) if "ffplay" not in line and "ffmpeg" not in line)
        assert demo == "vocos-onnx demo speech.wav" and len(commands) == 4
        run("\n".join(["set -e", "export VOCOS_TOKEN=", *commands]), folder)
    audio, rate = soundfile.read(folder / "out.wav", dtype="int16")
    assert rate == 24_000 and len(audio) == soundfile.info(folder / "speech.wav").frames
    assert np.abs(audio).max() > 1000
    assert soundfile.info(folder / "copy.flac").format == "FLAC"


def test_options() -> None:
    """Every command on the page that starts the service is valid, and every option it names exists."""
    commands = re.findall(r"^vocos-onnx serve.*$", TEXT, re.M)
    assert len(commands) == 3
    for command in commands:
        assert build_parser().parse_args(shlex.split(command, comments=True)[1:])
    known = subprocess.run(
        [sys.executable, "-m", "vocos_onnx", "serve", "--help"], capture_output=True, text=True, check=True
    ).stdout
    page = re.sub(r"```.*?```", "", TEXT, flags=re.S)
    named = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", page)) - {"--data-binary", "--fail-with-body", "--build-arg"}
    assert len(named) > 12
    for option in named:
        assert option in known, option


def test_unit(tmp_path: Path) -> None:
    """The unit's command serves, with the token from its file; systemd, if installed, accepts the unit."""
    text = UNIT.read_text(encoding="utf-8")
    (start,) = re.findall(r"^ExecStart=(.*)$", text, re.M)
    assert re.findall(r"^EnvironmentFile=(.*)$", text, re.M) == ["/etc/vocos-onnx.env"]
    program, *words = shlex.split(start)
    assert program == "/opt/vocos-onnx/bin/vocos-onnx" and words[-2:] == ["--port", "8000"]
    with Server("-m", "vocos_onnx", *words[:-2], VOCOS_TOKEN=TOKEN) as server:
        assert server.ask("/v1/models", method="GET").status == 401
        assert server.ask("/v1/models", b"", f"Authorization: Bearer {TOKEN}", method="GET").status == 200
        code, seconds, _ = server.stop(15)
    limits = dict(re.findall(r"^(SuccessExitStatus|TimeoutStopSec)=(\d+)$", text, re.M))
    assert code == int(limits["SuccessExitStatus"]) and seconds < int(limits["TimeoutStopSec"])
    if shutil.which("systemd-analyze") is not None:
        (tmp_path / UNIT.name).write_text(text.replace(program, sys.executable))
        done = subprocess.run(["systemd-analyze", "verify", tmp_path / UNIT.name], capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stderr


def test_pod() -> None:
    """The pod allows enough time to shut down, and its probes use the right paths and port."""
    yaml = pytest.importorskip("yaml")
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", DEPLOY.read_text(encoding="utf-8"), re.M | re.S)
    pod = yaml.safe_load(text)
    (container,) = pod["containers"]
    program, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    assert pod["terminationGracePeriodSeconds"] > int(seconds) + Settings().drain + 2
    asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("readiness", "liveness", "startup")}
    assert {name: one["path"] for name, one in asked.items()} == {
        "readiness": "/readyz",
        "liveness": "/healthz",
        "startup": "/readyz",
    }
    assert {one["port"] for one in asked.values()} == {container["ports"][0]["containerPort"]} == {Settings().port}


def test_dockerfile(tmp_path: Path) -> None:
    """Each Dockerfile's commands get the model from a hub, and the image serves it offline; the same in int8."""
    pytest.importorskip("huggingface_hub")
    from tests.hub.official import official

    hub = official(tmp_path / "checkpoints")
    whole, int8 = re.findall(r"^```dockerfile\n(.*?)^```$", DEPLOY.read_text(encoding="utf-8"), re.M | re.S)
    for name, text in (("whole", whole), ("int8", int8)):
        root = tmp_path / name
        (root / "opt").mkdir(parents=True)
        (root / "tmp").mkdir()
        text = re.sub(r"(?<=[\s\"=])/(?=(opt|tmp|models)\b)", f"{root}/", text)
        settings = dict(re.findall(r"^ENV (\w+)=(\S+)$", text, re.M))
        assert settings.pop("HF_HUB_OFFLINE", "1") == "1"
        (command,) = re.findall(r"^RUN (.*vocos-onnx .*)$", text, re.M)
        with hub.serve() as address:
            exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in settings.items())
            run(f"export HF_ENDPOINT={address} HF_HUB_DISABLE_PROGRESS_BARS=1\n{exports}{command}", root)
        assert not (root / "tmp" / "hub").exists()
        (start,) = re.findall(r"^CMD (\[.*\])$", text, re.M)
        program, *words = json.loads(start)
        assert program == "vocos-onnx"
        home = {"HOME": str(root / "none"), "HF_HOME": str(root / "none"), "HF_HUB_OFFLINE": "1"}
        with Server("-m", "vocos_onnx", *words, **settings, **home) as server:
            (model,) = json.loads(server.ask("/v1/models", method="GET").body)["models"]
        called, precision = "charactr/vocos-encodec-24khz", {"whole": "float32", "int8": "int8"}[name]
        assert (model["name"], model["precision"], model["codec"]) == (called, precision, "encodec_24khz")
        other = [word for word in words if word != "--int8"] if precision == "int8" else [*words, "--int8"]
        done = subprocess.run(
            [sys.executable, "-m", "vocos_onnx", *other, "--port", "0"],
            env={**os.environ, **settings, **home, **INSTALLED},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2
        there = {
            "int8": "in float32, but in int8, which precision='int8' of from_pretrained, or --int8 of vocos-onnx serve",
            "float32": "in int8, but in float32, which precision='float32' of from_pretrained opens",
        }[precision]
        assert there in done.stderr, done.stderr
