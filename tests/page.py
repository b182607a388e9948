"""Runs the code blocks of a Markdown page in the working directory: python tests/page.py PAGE CHECK [HUB]

Python and shell blocks run as a reader would run them: in order, in one folder, and all Python blocks as one program.
The comment <!-- not run: REASON --> before a block skips it. ``pip install`` only has its extras checked, and
``docker`` is skipped: CI installs the package and runs the steps of the image elsewhere.

CHECK is Python that runs at the end and sees the names that the blocks defined. HUB is a folder of checkpoints with
random weights; a local hub serves them under the names of the official ones.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import socket
import struct
import subprocess
import sys
import warnings
from importlib.metadata import metadata
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?^(?P<indent> *)```(?P<language>python|sh|bash)\n(?P<code>.*?)^ *```$",
    re.M | re.S,
)
# defines the command where the package is only on the path and not installed
SHELL_PRELUDE = 'command -v vocos-onnx >/dev/null || vocos-onnx() { python -m vocos_onnx "$@"; }\n'
_ELSEWHERE = ("pip install ", "docker ")
AUDIO = ("audio", "rough", "streamed", "recording", "copy")


class Block(NamedTuple):
    """A block of code: its language, its first line on the page, and the reason if it is not run."""

    language: str
    line: int
    code: str
    reason: str | None


def blocks(text: str) -> list[Block]:
    """The Python and shell blocks of a page."""
    found = []
    for match in _BLOCK.finditer(text):
        code = re.sub(rf"^{match['indent']}", "", match["code"], flags=re.M)
        line = text.count("\n", 0, match.start("code")) + 1
        found.append(Block(match["language"], line, code, match["reason"]))
    return found


def commands(block: Block) -> list[str]:
    """The lines of a shell block, without comments and empty lines."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]


def check_extras(command: str) -> None:
    """Raises AssertionError if ``pip install`` names an extra that does not exist."""
    known = set(metadata("vocos-onnx").get_all("Provides-Extra") or ())
    for word in shlex.split(command)[2:]:
        if extras := re.search(r"\[(.+)\]$", word):
            assert set(extras[1].split(",")) <= known, (command, known)


def run(page: Path, check: str) -> None:
    """Run the blocks of a page, then the check. Errors propagate; tracebacks give the line on the page."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.reason is not None or (page.name == "README.md" and block.language == "bash"):
            continue  # .ci/run runs the two commands of the README
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.code, page, "exec"), names)
        else:
            _run_shell(block, page)
        for name in names.keys() & set(AUDIO):
            audio = names[name]
            if isinstance(audio, list):
                continue  # a list of chunks
            assert audio.dtype == "float32" and abs(audio).max() < 10, (name, block)
            assert audio.std() > 0.01, (name, block)  # it is not silent
    exec(compile(check, f"check of {page.name}", "exec"), names)


def _run_shell(block: Block, page: Path) -> None:
    code = []
    for line in block.code.splitlines():
        if line.startswith("pip install "):
            check_extras(re.sub(r"\s#.*", "", line))
        code.append("" if line.startswith(_ELSEWHERE) else line)
    script = SHELL_PRELUDE + "\n".join(code)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (str(page), block.line, block.code, done.stdout, done.stderr)
    assert "warning" not in done.stderr, (block.code, done.stderr)


def _raise_loopback() -> None:
    """Bring up the loopback interface, the only one in a new network namespace."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # SIOCSIFFLAGS: up and running


def main() -> None:
    page, check, *hub = sys.argv[1:]
    _raise_loopback()
    warnings.simplefilter("error")
    with contextlib.ExitStack() as stack:
        if hub:
            sys.path.append(str(ROOT))  # after the installed package
            from tests.hub.official import found

            os.environ["HF_ENDPOINT"] = stack.enter_context(found(Path(hub[0])).serve())
        run(Path(page), check)


if __name__ == "__main__":
    main()
