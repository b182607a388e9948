"""The documentation pages: their code runs, their links resolve, and the tests that they cite exist."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import vocos_onnx
import vocos_onnx.batch
from tests.helpers import ROOT
from tests.page import Block, blocks, commands
from vocos_onnx.cli.program import build_parser

README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in (README, *PAGES)}
BLOCKS = {name: blocks(text) for name, text in TEXTS.items()}
LEFT_OUT = [(name, block) for name, found in BLOCKS.items() for block in found if block.reason is not None]
# tests/service/test_docs.py and tests/browser/check_clients.py run its blocks against the service
SERVICE = "docs/guides/service.md"
RUN = [name for name, found in BLOCKS.items() if any(block.reason is None for block in found) and name != SERVICE]
# checks at the end of a page, besides the one for every page: its audio is not silent
CHECKS = {
    "README.md": "assert Path('copy.wav').stat().st_size > 100_000",
    "docs/guides/decode.md": """
assert together.shape == as_transformers.shape == (2, 96_000)
assert np.array_equal(together, as_transformers)
assert np.abs(together[0] - vocos.decode(tokens[:, :300])).max() < 1e-5
assert [len(each) for each in several] == [32_000, 80_000]
assert np.array_equal(from_features[0], vocos.decode(tokens[:8]))
assert len(from_mels) > 200_000
assert {path.name for path in Path('decoded').iterdir()} == {'speech.flac'}
assert Path('chosen.wav').read_bytes() == Path('out.wav').read_bytes()
""",
    "docs/guides/streams.md": """
expected = vocos.decode(tokens)
assert np.abs(streamed - expected).max() < 1e-5
assert all(np.abs(each - expected).max() < 1e-5 for each in listeners)
assert len(rough) == len(expected)
raw = np.fromfile('audio.raw', np.int16) / 32768
assert np.abs(raw - expected).max() < 1e-3
assert Path('copy.flac').stat().st_size > 100_000
""",
    "docs/guides/async.md": """
expected = vocos.decode(tokens)
assert np.array_equal(audio, expected) and np.array_equal(rough, vocos.decode(tokens[:2]))
assert np.array_equal(codes, encoder.encode(expected, 24_000, 6.0))
for each in (streamed, again):
    assert np.abs(each - expected).max() < 1e-5 * np.abs(expected).max()
assert [len(each) for each in listeners] == [320 * (20 + i) for i in range(100)]

import io, threading, time, urllib.error, urllib.request
import uvicorn
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from vocos_onnx import Tokens, demo_tokens, load_audio, save_tokens

server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
thread = threading.Thread(target=server.run, daemon=True)
thread.start()
while not server.started:
    time.sleep(0.01)
address = "127.0.0.1:%d" % server.servers[0].sockets[0].getsockname()[1]

def slowly(body):
    for start in range(0, len(body), 3000):
        yield body[start : start + 3000]
        time.sleep(0.05)

def ask(path, body):
    headers = {"Content-Length": str(len(body)), "Content-Type": "application/octet-stream"}
    return urllib.request.urlopen(urllib.request.Request(f"http://{address}{path}", slowly(body), headers)).read()

file = io.BytesIO()
save_tokens(file, demo_tokens())
assert np.abs(load_audio(io.BytesIO(ask("/decode", file.getvalue())), 24_000) - expected.clip(-1, 1)).max() < 1e-4
assert np.abs(np.frombuffer(ask("/stream", file.getvalue()), "f4") - expected).max() < 1e-5 * np.abs(expected).max()
for path in ("/decode", "/stream"):
    try:
        ask(path, b"nothing")
    except urllib.error.HTTPError as error:
        assert error.code == 400
    else:
        raise AssertionError("nothing is no file of tokens")
def as_file(array):
    file = io.BytesIO()
    np.savez(file, tokens=np.asarray(array), codec=getattr(array, "codec", "vocos_onnx_24khz"))
    return file.getvalue()

for path in ("/decode", "/stream"):
    shapes = (2, 8, 75), (8, 0), (75,)
    other = Tokens(tokens, codec="encodec_24khz")
    for bad in (tokens[:7], tokens + 1024, *(np.zeros(shape, int) for shape in shapes), np.zeros((8, 75)), other):
        try:
            ask(path, as_file(bad))
        except urllib.error.HTTPError as error:
            assert error.code == 400, (path, error.code)
        else:
            raise AssertionError((path, bad))
with connect(f"ws://{address}/live") as client:
    client.send(as_file(tokens[:7]))
    try:
        client.recv()
    except ConnectionClosed as closed:
        assert closed.rcvd.code == 1007 and "codebooks" in closed.rcvd.reason
heard = []
with connect(f"ws://{address}/live") as client:
    for start in range(0, tokens.shape[1], 8):
        client.send(as_file(tokens[:8, start : start + 8]))
        heard.append(client.recv())
    client.send(b"")
    heard.append(client.recv())
expected = vocos.decode(tokens[:8])
assert np.abs(np.frombuffer(b"".join(heard), "f4") - expected).max() < 1e-5 * np.abs(expected).max()
server.should_exit = True
thread.join()
""",
    "docs/guides/copy-synthesis.md": """
assert np.array_equal(audio, copy) and tokens.shape[0] == 2
assert Path('copies/speech.wav').exists() and Path('copies/low.wav').exists()
assert Path('spectrograms.png').read_bytes().startswith(b'\\x89PNG')
""",
    "docs/guides/official-models.md": """
assert vocos.config.precision == 'int8' and tokens.shape[0] == 8
assert all(Path(name).exists() for name in ('out.wav', 'python.wav', 'copy.wav', 'int8.wav'))
""",
    "docs/guides/mels.md": """
expected = vocos.decode(mels.T)
assert np.abs(np.concatenate(streamed) - expected).max() < 1e-5 * np.abs(expected).max()
assert 0 < prompt_rms < 0.1, 'the level would not be lowered'
assert np.allclose(audio, expected * np.float32(prompt_rms / 0.1), atol=1e-6)
assert "pass mels_from=MelConvention(axes='btc', log='db')" in message
handed = {
    '': mels.T[None], 'f5': mels[None], 'zipvoice': 0.1 * mels[None], 'chattts': mels.T[None], 'mlx': mels[None],
    'another system': mels[None] / np.float32(np.log(10)),
}
lines = re.findall(r"\\| `(vocos\\.decode\\(.*?\\))` \\|", TEXT)
assert len(lines) == 7
for line in lines:
    name = next((name for name in handed if name and f'"{name}"' in line), 'another system' if 'log=10' in line else '')
    if 'matcha' in line:
        continue  # of 80 bands: tests/unit/test_mels.py
    (each,) = eval(line, globals() | {'mels': handed[name], 'lengths': [len(mels)]})
    assert each.shape == expected.shape, line
    assert np.abs(each - expected.clip(-1, 1)).max() < 3e-5 * np.abs(expected).max(), line
""",
    "docs/guides/corpora.md": """
assert (summary.done, summary.failed) == (2, 0)
assert len(Path('corpus.jsonl').read_text().splitlines()) == 2
""",
    "docs/reference/errors.md": """
ended, failed = vocos.stream(), vocos.stream()
ended.flush()
with contextlib.suppress(ValueError):
    failed.push(tokens + 1024)
rows = re.findall(r"^\\| `(.+?)`.*? \\| (.+?) \\| .+ \\|$", TEXT, re.M)
rows = [(code, text) for code, text in rows if '(' in code]
assert len(rows) == 22, len(rows)
for code, text in rows:
    try:
        eval(code)
    except Exception as error:
        found = str(error)
        assert found.startswith(text), (code, found)
    else:
        raise AssertionError(code)
""",
}
PRELUDE = "import contextlib, re\nfrom pathlib import Path\nimport numpy as np\nTEXT = {!r}\n"


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Returns a folder with checkpoints of the official geometries; they are written on the first call."""
    made: list[Path] = []

    def folder() -> Path:
        if not made:
            from tests.hub.official import official

            made.append(tmp_path_factory.mktemp("hub"))
            official(made[0])
        return made[0]

    return folder


def isolated() -> list[str]:
    """The prefix that runs a command without a network; empty if this machine cannot do that."""
    if (unshare := shutil.which("unshare")) is None:
        return []
    command = [unshare, "--net"]
    return command if subprocess.run([*command, "true"], capture_output=True).returncode == 0 else []


@pytest.mark.parametrize("name", RUN)
def test_the_code_of_a_page(name: str, tmp_path: Path, hub: Callable[[], Path]) -> None:
    """A page's blocks run in order, in an empty folder, with the installed package and without a network."""
    if "IPython" in TEXTS[name]:
        pytest.importorskip("IPython")
    code = "".join(block.code for block in BLOCKS[name] if block.reason is None)
    needs_hub = re.search(r"\b(charactr|facebook|BSC-LT)/", code) is not None
    if needs_hub:
        pytest.importorskip("huggingface_hub")
    home, folder = tmp_path / "home", tmp_path / "folder"
    home.mkdir()
    folder.mkdir()
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"HOME": str(home), "VOCOS_ONNX_CACHE": str(home / "cache"), "HF_HOME": str(home / "hub")}
    environment |= {"MPLBACKEND": "Agg", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    if entries := environment.pop("PYTHONPATH", None):  # relative entries refer to this working directory
        environment["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in entries.split(os.pathsep))
    check = PRELUDE.format(TEXTS[name]) + CHECKS.get(name, "")
    command = [sys.executable, "-P", str(ROOT / "tests" / "page.py"), str(ROOT / name), check]
    if needs_hub:
        command.append(str(hub()))
    done = subprocess.run(
        [*isolated(), *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_few_blocks_are_left_out() -> None:
    """Each has a reason, and its commands have valid options."""
    assert CHECKS.keys() <= set(RUN)
    assert len(LEFT_OUT) <= 5, LEFT_OUT
    for name, block in LEFT_OUT:
        assert len(block.reason or "") > 10, (name, block)
        for command in commands(block) if block.language != "python" else []:
            words = shlex.split(command)
            if words[0] == "vocos-onnx":
                assert build_parser().parse_args(words[1:]), (name, command)
        if block.language == "python":
            compile(block.code, name, "exec")


def test_no_block_hides() -> None:
    """Every fence names its language, so no Python or shell code goes untested."""
    for name, text in TEXTS.items():
        fences = re.findall(r"^ *```(\S*)$", text, re.M)
        assert set(fences[::2]) <= {"python", "sh", "bash", "text", "json", "nginx", "dockerfile", "js", "yaml"}, name
        assert not any(fences[1::2]), name


def test_each_page_begins_with_what_its_reader_can_do_at_its_end() -> None:
    for path in PAGES:
        title, first, *_ = [block for block in path.read_text(encoding="utf-8").split("\n\n") if block.strip()]
        assert title.startswith("# "), path
        assert first.startswith("At the end of this page"), path


def anchors(text: str) -> set[str]:
    """The anchors of the headings of a page."""
    text = re.sub(r"^( *)(```+).*?^\1\2 *$", "", text, flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", [*TEXTS, "CONTRIBUTING.md", "SECURITY.md"])
def test_links_lead_somewhere(name: str) -> None:
    """Links within the repository resolve; tests/check_site.py checks those of the site."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        target, _, anchor = link.partition("#")
        path = ((ROOT / name).parent / target).resolve() if target else ROOT / name
        if path.is_relative_to(ROOT / "models") and not (ROOT / "models").exists():
            continue  # models/ is missing where a wheel is tested, since the wheel contains the models
        assert path.exists(), (name, link)
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), (name, link)


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/explanation/reliability.md"])
def test_each_promise_has_its_test(page: str) -> None:
    """Every test that a page cites exists."""
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/.]+?)::(\w+)`", text)
    assert page != "SECURITY.md" or len(named) > 15
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), (file, name)


def test_the_first_block_of_the_readme_is_what_ci_runs() -> None:
    """The README begins with the two commands that CI runs; the first writes the file that later examples read."""
    first, second = BLOCKS["README.md"][0].code.splitlines()
    assert BLOCKS["README.md"][0].language == "bash"
    assert first.endswith("vocos-onnx demo demo.wav")
    assert second.endswith("pytest -n 2")


def test_no_release_is_promised_that_there_is_not() -> None:
    """Until the package is on PyPI, pip can resolve its name only where it is already installed."""
    for name in (*TEXTS, "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for found in re.finditer(r"pip install [\"']?vocos-onnx", text):
            assert re.search(r"([Ww]here it is installed,\s+`|needs ray: )$", text[: found.start()]), (
                name,
                found.group(),
            )


def test_what_is_public_is_in_the_reference() -> None:
    """The API reference lists every public name; the installation guide has every extra and the version."""
    reference = "".join(text for name, text in TEXTS.items() if name.startswith("docs/reference/api/"))
    for name in vocos_onnx.__all__:
        assert f"::: vocos_onnx.{name}\n" in reference, name
    for name in vocos_onnx.batch.__all__:
        assert f"::: vocos_onnx.batch.{name}\n" in reference, name
    install = TEXTS["docs/guides/install.md"]
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = pyproject.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    for extra in re.findall(r"^(\w+) = ", section, re.M):
        assert re.search(rf"\[(cpu,)?{extra}\]", install) or extra in ("test", "bench"), extra
    assert f"vocos_onnx-{vocos_onnx.__version__}-py3" in install
    assert vocos_onnx.__version__ in pyproject


def test_the_blocks_are_found() -> None:
    """The parser finds skip markers, languages, indented blocks and line numbers in a sample page."""
    text = "# T\n\n<!-- not run: no time -->\n```sh\nx  # y\n```\n1. a\n\n   ```python\n   import this\n   ```\n"
    text += "```json\n{}\n```\n"
    assert blocks(text) == [Block("sh", 5, "x  # y\n", "no time"), Block("python", 10, "import this\n", None)]
    assert commands(blocks(text)[0]) == ["x"]
