"""The README's commands and Python run as they stand, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import vocos_onnx
from tests.helpers import ROOT
from vocos_onnx.cli.program import build_parser

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.S)
LINES = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.S) for line in block.splitlines()]
# what is downloaded, or takes torch or the figures of [report]: their options are checked, and no more
_COMMANDS = ("convert", "models", "export", "export-encodec", "quantize", "train", "report")
NOT_RUN = ("pip ", *(f"vocos-onnx {name} " for name in _COMMANDS))

# the program's name, also where the package is on the path and not installed
PRELUDE = 'command -v vocos-onnx >/dev/null || vocos-onnx() { python -m vocos_onnx "$@"; }\n'
# Runs the snippets one after the other, as one program; what they name so is audio, and there is something to hear.
PROGRAM = """
import json, sys
import numpy as np
names = {}
for snippet in json.load(sys.stdin):
    exec(snippet, names)
    for name in {"audio", "rough", "streamed", "recording"} & names.keys():
        audio = names[name]
        assert audio.dtype == np.float32 and audio.ndim == 1, (name, audio.dtype, audio.shape)
        assert np.isfinite(audio).all() and audio.std() > 0.01, (name, snippet)
    if "rough" in names:
        assert abs(len(names["audio"]) - len(names["rough"])) < 512  # whole frames
assert np.abs(names["streamed"] - names["vocos"].decode(names["demo_tokens"]())).max() < 1e-5
"""


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/reliability.md"])
def test_each_promise_has_its_test(page: str) -> None:
    """The tests that a page names are there, but for those of the checkout where it is not at hand."""
    text = (README.parent / page).read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/.]+?)::(\w+)`", text)
    assert page != "SECURITY.md" or len(named) > 15
    for file, name in named:
        assert f"def {name}(" in (README.parent / file).read_text(encoding="utf-8"), (file, name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is empty but for what the README's first command has made."""
    path = tmp_path_factory.mktemp("empty")
    run("vocos-onnx demo demo.wav", path)
    return path


def run(command: str, folder: Path) -> str:
    """What a shell prints where the package's environment is active, and nothing of the checkout is on the path."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    if entries := environment.pop("PYTHONPATH", None):  # as it was meant where it was set
        environment["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in entries.split(os.pathsep))
    done = subprocess.run(
        ["bash", "-c", PRELUDE + command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert "warning" not in done.stderr, done.stderr
    return done.stdout


def test_snippets(folder: Path) -> None:
    assert len(SNIPPETS) == 6
    (folder / "snippets.json").write_text(json.dumps(SNIPPETS))
    (folder / "program.py").write_text(PROGRAM)
    run("python -W error program.py < snippets.json", folder)
    for name in ("demo.wav", "copy.wav", "long.wav"):
        assert (folder / name).stat().st_size > 100_000


def test_commands(folder: Path) -> None:
    """Those that need neither torch nor a network are run, in order; of the others the options are checked."""
    assert len(LINES) > 12
    ran = 0
    for line in LINES:
        if line.startswith(NOT_RUN):
            words = shlex.split(line, comments=True)
            assert words[0] == "pip" or build_parser().parse_args(words[1:])
        else:
            run(line, folder)
            ran += 1
    assert ran >= 8
    for name in ("out.wav", "resynth.wav", "copies/speech.wav", "copies/out.wav", "audio.raw"):
        assert (folder / name).stat().st_size > 100_000
    assert (folder / "spectrograms.png").read_bytes().startswith(b"\x89PNG")


MELS_PROGRAM = """
import json, sys
import numpy as np
snippets, lines = json.load(sys.stdin)
names = {}
for snippet in snippets:
    exec(snippet, names)
vocos, f5 = names["vocos"], names["mels"]
np.save("mels.npy", f5)
expected = vocos.decode(f5.T)
assert np.abs(expected).max() > 0.1
assert np.abs(np.concatenate(names["streamed"]) - expected).max() < 1e-5 * np.abs(expected).max()
rms = names["prompt_rms"]
assert 0 < rms < 0.1, "the level would not be lowered"
assert np.allclose(names["audio"], expected * np.float32(rms / 0.1), atol=1e-6)
assert "pass mels_from=MelConvention(axes='btc', log='db')" in str(names["caught"])
handed = {
    "": f5.T[None], "f5": f5[None], "zipvoice": 0.1 * f5[None], "chattts": f5.T[None], "mlx": f5[None],
    "another system": f5[None] / np.float32(np.log(10)),
}
for line in lines:
    name = next((name for name in handed if name and f'"{name}"' in line), "another system" if "log=10" in line else "")
    if "matcha" in line:
        continue  # of 80 bands: tests/unit/test_mels.py
    (audio,) = eval(line, names | {"mels": handed[name], "lengths": [len(f5)]})
    assert audio.shape == expected.shape, line
    assert np.abs(audio - expected.clip(-1, 1)).max() < 1e-5 * np.abs(expected).max(), line
"""


def test_the_page_of_mels(folder: Path) -> None:
    """Its snippets are one program; each line of its table plays what that system hands over; its commands run."""
    text = (ROOT / "docs" / "mels.md").read_text(encoding="utf-8")
    snippets = [re.sub(r"print\(error\)", "caught = error", s) for s in re.findall(r"```python\n(.*?)```", text, re.S)]
    assert len(snippets) == 5
    lines = re.findall(r"\| `(vocos\.decode\(.*?\))` \|", text)
    assert len(lines) == 7
    (folder / "mels.json").write_text(json.dumps([snippets, lines]))
    (folder / "mels.py").write_text(MELS_PROGRAM)
    run("python -W error mels.py < mels.json", folder)
    commands = [line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines()]
    assert len(commands) == 1
    for command in commands:
        run(command.replace("decode ", "decode -y "), folder)
    assert (folder / "out.wav").stat().st_size > 100_000


ASYNC_PROGRAM = """
import asyncio, io, json, sys
from vocos_onnx import load_audio, save_tokens
names = {}
for snippet in json.load(sys.stdin):
    exec(snippet, names)
np, vocos, tokens = names["np"], names["vocos"], names["tokens"]
expected = vocos.decode(tokens)
assert np.array_equal(names["audio"], expected) and np.array_equal(names["rough"], vocos.decode(tokens[:2]))
assert np.array_equal(names["codes"], names["encoder"].encode(expected, 24_000, 6.0))
for audio in (names["streamed"], names["again"]):
    assert np.abs(audio - expected).max() < 1e-5 * np.abs(expected).max()

def ask(path, body):
    sent, given = [], [{"type": "http.request", "body": part, "more_body": True} for part in (body[:333], body[333:])]
    given.append({"type": "http.request"})

    async def receive():
        return given.pop(0) if given else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "asgi": {"spec_version": "2.4"}, "method": "POST", "path": path, "headers": []}
    asyncio.run(names["app"](scope | {"query_string": b"", "root_path": ""}, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


file = io.BytesIO()
save_tokens(file, names["demo_tokens"]())
status, body = ask("/decode", file.getvalue())
assert status == 200 and np.abs(load_audio(io.BytesIO(body), 24_000) - expected.clip(-1, 1)).max() < 1e-4
assert ask("/decode", b"nothing")[0] == 400
status, body = ask("/stream", tokens[:8].T.astype("<u2").tobytes())
expected = vocos.decode(tokens[:8])
assert status == 200 and np.abs(np.frombuffer(body, "f4") - expected).max() < 1e-5 * np.abs(expected).max()
assert [len(audio) for audio in names["listeners"]] == [320 * (20 + i) for i in range(100)]
"""


def test_the_page_of_asyncio(folder: Path) -> None:
    """Its snippets are one program."""
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "async.md").read_text(encoding="utf-8"), re.S)
    assert len(snippets) == 5
    (folder / "async.json").write_text(json.dumps(snippets))
    (folder / "async.py").write_text(ASYNC_PROGRAM)
    run("python -W error async.py < async.json", folder)


def test_the_first_block_is_what_ci_runs() -> None:
    """Two commands; the first makes what the snippets read."""
    block = re.search(r"```bash\n(.*?)```", TEXT, re.S)
    assert block is not None
    first, second = block.group(1).splitlines()
    assert first.endswith("vocos-onnx demo demo.wav")
    assert second.endswith("pytest")


def test_links_lead_somewhere() -> None:
    for page in ("README.md", *(f"docs/{path.name}" for path in (README.parent / "docs").glob("*.md"))):
        text = (README.parent / page).read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            target, _, anchor = link.partition("#")
            assert not target or (README.parent / page).parent.joinpath(target).exists(), (page, link)
            headings = {
                re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)
            }
            assert target or anchor in headings, (page, link)


def test_no_release_is_promised_that_there_is_not() -> None:
    """Until it is on PyPI, only where the package is installed does its name mean anything to pip."""
    for page in ("README.md", "docs/deploy.md", "CONTRIBUTING.md"):
        text = (README.parent / page).read_text(encoding="utf-8")
        for found in re.finditer(r"pip install [\"']?vocos-onnx", text):
            assert "Where it is installed, " in text[found.start() - 30 : found.start()], (page, found.group())


def test_it_names_what_is_public() -> None:
    text = README.read_text(encoding="utf-8")
    for name in vocos_onnx.__all__:
        assert name in text or name.endswith("Config"), name
    for extra in ("cpu", "gpu", "export", "train", "plot", "report", "test"):
        assert f"[{extra}]" in text or f",{extra}]" in text, extra
    assert f"vocos_onnx-{vocos_onnx.__version__}-py3" in text
    assert vocos_onnx.__version__ in (README.parent / "pyproject.toml").read_text(encoding="utf-8")
