"""The command line as a process with standard streams that are closed, full, of another kind, or without a reader."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from tests.fuzz.audio import recordings
from tests.fuzz.common import Rng, Target
from tests.helpers import DATA

CODEC, ENCODER, MEL = (str(DATA / f"{name}.onnx") for name in ("encodec", "encoder", "mel"))
PAIR = ["--encoder", ENCODER, "--bandwidth", "1.5"]
TOKENS = np.random.default_rng(0).integers(1024, size=(2, 12))
ODD = os.fsdecode(b"\xff\x1b[31m\n\xe2\x80\xae.wav")
# control characters that must not be written to a terminal or log; line ends, tabs and the like are allowed
CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xae]|\xe2\x81[\xa6-\xa9]")
READ = ("closed", "null", "pipe", "file", "terminal", "write-only")
WRITTEN = ("closed", "null", "full", "pipe", "gone", "file", "terminal", "read-only")
# a command, its standard input, and its output, which may be "-"
COMMANDS: list[tuple[list[str], str, str]] = [
    (["decode", "t.npy", "out.wav", "--model", CODEC], "", "out.wav"),
    (["decode", "t.npy", ODD, "made/", "--model", CODEC], "", "made/t.wav"),
    (["decode", "-", "out.flac", "--model", CODEC], "t.npy", "out.flac"),
    (["decode", "t.npy", "-", "--model", CODEC], "", "-"),
    (["decode", "-", "-", "--format", "flac", "--model", CODEC], "t.npy", "-"),
    (["decode", ODD, "out.wav", "--model", CODEC], "", ""),
    (["encode", "rec", "made", *PAIR], "", "made/a.npz"),
    (["encode", "-", "-", *PAIR], "a.wav", "-"),
    (["encode", ODD, "out.npz", *PAIR], "", "out.npz"),
    (["resynth", "rec", "made/of/them", "--model", MEL], "", "made/of/them/a.wav"),
    (["resynth", ODD, "out.wav", "--model", MEL], "", "out.wav"),
    (["resynth", "-", "-", "--format", "ogg", "--model", MEL], "a.wav", "-"),
    (["resynth", "text", "missing", "made/", "--model", MEL], "", ""),
    (["stream", "tokens", "--model", CODEC, "--bandwidth", "1.5"], "raw", "-"),
    (["stream", "tokens", "--model", CODEC, "--bandwidth", "1.5"], "t.npy", "refused"),
    (["stream", "audio", "--model", MEL], "a.wav", "refused"),
    (["info", CODEC], "", "text"),
    (["info", ENCODER, "--json"], "", "text"),
    (["info", ODD], "", ""),
    (["--help"], "", "text"),
    (["--version"], "", "text"),
    ([], "", "text"),
    (["decode", "--help"], "", "text"),
    (["decode", f"--{ODD}", "t.npy", "out.wav"], "", ""),
    ([ODD], "", ""),
]


@cache
def _environment() -> dict[str, str]:
    package = Path(sys.modules["vocos_onnx"].__file__ or "").resolve().parents[1]
    return {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def standard_streams(rng: Rng, folder: Path) -> None:
    import vocos_onnx  # noqa: F401

    os.chdir(folder)
    Path("a.wav").write_bytes(recordings()[0])
    Path("rec").mkdir()
    for name in ("rec/a.wav", "rec/b.wav", ODD):
        Path(name).write_bytes(recordings()[0])
    Path("rec/text").write_text("no audio")
    Path("text").write_text("no audio")
    np.save("t.npy", TOKENS)
    Path("raw").write_bytes(TOKENS.T.astype("<i2").tobytes())
    before = sorted(os.listdir())  # noqa: PTH208

    args, data, output = COMMANDS[rng.integers(len(COMMANDS))]
    kinds = [READ[rng.integers(len(READ))], *(WRITTEN[i] for i in rng.integers(len(WRITTEN), size=2))]
    if rng.random() < 0.5:  # otherwise few commands would get their input
        kinds[0] = "file"
    environment = dict(_environment())
    if rng.random() < 0.3:
        environment["PYTHONIOENCODING"] = ["ascii:strict", "cp1252:strict", "utf-16", "latin-1"][rng.integers(4)]
    code, out, error = _run(args, kinds, data, environment)

    case = (args, kinds, environment.get("PYTHONIOENCODING"), code, out[:500], error[-800:])
    wide = environment.get("PYTHONIOENCODING") == "utf-16"
    assert code in (0, 1, 2), case
    for text in (error, out if output in ("", "text", "refused") else b""):
        assert b"Traceback" not in text and b"Exception ignored" not in text, case
        assert wide or not CONTROL.search(text.replace(b"\r" + b" " * 99, b"")), case
    given = bool(data) <= (kinds[0] in ("file", "pipe"))
    if code == 1:
        assert kinds[1] == "gone" and output in ("-", "text", "refused"), case
    if output in ("-", "text") and given:
        taken = {"closed": 2, "full": 2, "read-only": 2, "gone": 1, "terminal": 2 if output == "-" else 0}
        assert code == taken.get(kinds[1], 0), case
        if code == 0 and kinds[1] in ("file", "pipe"):
            assert out, case
            if output == "-" and args[0] in ("decode", "resynth"):
                assert soundfile.info(io.BytesIO(out)).frames > 0, case
    elif output in ("", "refused"):
        assert code == 2 or not given, case
    elif given:  # output to a file does not depend on the standard streams; the odd file holds no tokens
        assert code == (2 if ODD in args and args[0] == "decode" else 0), case
        assert Path(output).stat().st_size > 100, case
    made = [path for path in folder.rglob("*") if path.is_file() and path.suffix in (".wav", ".flac")]
    assert all(soundfile.info(io.BytesIO(path.read_bytes())).frames > 0 for path in made), case  # complete, or absent
    assert not list(folder.rglob(".vocos-*")), case
    if code == 2 and output == "":
        assert sorted(os.listdir()) == before, case  # noqa: PTH208


def _run(args: list[str], kinds: list[str], data: str, environment: dict[str, str]) -> tuple[int, bytes, bytes]:
    """The exit code, and what was captured from standard output and standard error."""
    opened: list[int] = []
    listened: dict[int, Callable[[], bytes]] = {}
    places: list[int | None] = []

    def open_(path: str, flags: int) -> int:
        opened.append(os.open(path, flags, 0o600))
        return opened[-1]

    after = []  # to be closed once the program is running
    for number, kind in enumerate(kinds):
        if kind == "closed":
            places.append(None)
        elif kind == "terminal":
            ours, theirs = pty.openpty()
            opened.append(ours)
            after.append(theirs)
            places.append(theirs)
            if number:
                listened[number] = lambda ours=ours: _read_terminal(ours)  # type: ignore[misc]
        elif kind == "full":
            places.append(open_("/dev/full", os.O_WRONLY))
        elif kind == "gone":
            ours, theirs = os.pipe()
            os.close(ours)
            opened.append(theirs)
            places.append(theirs)
        elif kind == "pipe" and not number:
            ours, theirs = os.pipe()
            os.write(theirs, Path(data).read_bytes() if data else b"")  # fits into a pipe
            os.close(theirs)
            opened.append(ours)
            places.append(ours)
        elif kind == "pipe":
            ours, theirs = os.pipe()
            opened.append(ours)
            after.append(theirs)
            places.append(theirs)
            listened[number] = lambda ours=ours: b"".join(iter(lambda: os.read(ours, 1 << 16), b""))  # type: ignore[misc]
        elif kind == "file" and not number:
            places.append(open_(data or os.devnull, os.O_RDONLY))
        elif kind == "file":
            name = f"/tmp/vocos-fuzz-{os.getpid()}-{number}"
            places.append(open_(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC))
            os.unlink(name)  # noqa: PTH108
            listened[number] = lambda it=places[-1]: os.pread(it, 1 << 24, 0)  # type: ignore[misc]
        else:
            readable = (kind == "read-only") or (kind == "null" and not number)
            places.append(open_(os.devnull, os.O_RDONLY if readable else os.O_WRONLY))

    def place() -> None:
        for number, it in enumerate([None if it is None else os.dup(it) for it in places]):
            os.close(number) if it is None else os.dup2(it, number)

    command = [sys.executable, "-m", "vocos_onnx", *args]
    # place() installs or closes each standard stream in the child
    process = subprocess.Popen(command, preexec_fn=place, env=environment, pass_fds=[it for it in places if it])
    for it in after:
        os.close(it)
    said = {number: listen() for number, listen in listened.items() if kinds[number] != "file"}
    code = process.wait(timeout=60)
    said |= {number: listen() for number, listen in listened.items() if kinds[number] == "file"}
    for it in opened:
        os.close(it)
    return code, said.get(1, b""), said.get(2, b"")


def _read_terminal(terminal: int) -> bytes:
    said = b""
    while True:
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:  # the program has ended
            return said
        if not data:
            return said
        said += data


TARGETS = {"standard streams": Target(standard_streams, 0.02, (), 60)}
