"""Tests of where output goes: files not to replace, links, FIFOs, mounts and modes, and what signals leave behind."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.helpers import DATA
from vocos_onnx import EncodecONNX, load_audio, save_audio, save_blocks, save_tokens
from vocos_onnx.cli import main
from vocos_onnx.io.files import check_target, whole_file

MODEL, ENCODER = str(DATA / "encodec.onnx"), str(DATA / "encoder.onnx")
PAIR = ("--model", MODEL, "--encoder", ENCODER, "--bandwidth", "1.5")
AUDIO = np.linspace(-0.5, 0.5, 2400).astype(np.float32)
PROGRAM = [sys.executable, "-m", "vocos_onnx"]


def run(*args: object) -> int:
    return main([str(arg) for arg in args])


def names(folder: str | Path) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two recordings and tokens.npy."""
    monkeypatch.chdir(tmp_path)
    for n in (1, 2):
        soundfile.write(f"take{n}.wav", np.random.default_rng(n).normal(0, 0.1, n * 6_000), 24_000)
    np.save("tokens.npy", np.random.default_rng(0).integers(1024, size=(2, 30)))
    return tmp_path


@pytest.fixture(params=["save_audio", "save_blocks", "save_tokens", "whole_file"])
def write(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    """Each way of writing a file, as write(path); none writes an empty file."""
    encoder = EncodecONNX(ENCODER)

    def whole(path: Path) -> None:
        with whole_file(Path(path)) as partial:
            partial.write_bytes(b"finished")

    ways: dict[str, Callable[[Path], object]] = {
        "save_audio": lambda path: save_audio(path, AUDIO, 24_000),
        "save_blocks": lambda path: save_blocks(path, [AUDIO, AUDIO], 24_000),
        "save_tokens": lambda path: save_tokens(path, np.zeros((2, 5), int), encoder),
        "whole_file": whole,
    }
    return ways[request.param]


def name_for(write: Any, stem: str) -> str:
    return stem + (".npz" if "save_tokens" in repr(write.__code__.co_names) else ".wav")


# -- what must not be replaced --


@pytest.mark.parametrize("force", [[], ["--force"], ["-y"]])
def test_a_forgotten_output_is_not_taken_for_one(folder: Path, capsys: pytest.CaptureFixture[str], force: Any) -> None:
    before = digest("take2.wav")
    assert run("resynth", "take1.wav", "take2.wav", *PAIR, *force) == 2
    error = capsys.readouterr().err
    assert "take2.wav is a recording that was not made by vocos-onnx" in error
    assert "force" not in error
    assert digest("take2.wav") == before
    assert sorted(p.name for p in folder.iterdir()) == ["take1.wav", "take2.wav", "tokens.npy"]


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize(
    ("args", "output"),
    [
        (["resynth", "day1", "day2", *PAIR], "day2"),
        (["resynth", "day1", "day3", "day2", *PAIR], "day2"),
        (["resynth", "day1/001.wav", "day1/002.wav", "day2", *PAIR], "day2/001.wav"),
        (["encode", "day1", "day2", "--encoder", ENCODER, "--bandwidth", "1.5"], "day2"),
        (["decode", "tokens1", "tokens2", "--model", MODEL], "tokens2"),
    ],
)
def test_a_folder_is_not_taken_for_an_output_either(
    folder: Path, capsys: pytest.CaptureFixture[str], args: Any, output: str, force: Any
) -> None:
    for day in ("day1", "day2", "day3"):
        Path(day).mkdir()
        shutil.copy("take1.wav", f"{day}/001.wav")
    shutil.move("take1.wav", "day1/002.wav")
    for name in ("tokens1", "tokens2"):
        Path(name).mkdir()
        shutil.copy("tokens.npy", name)
    before = {path: digest(path) for path in folder.rglob("*.*")}
    assert run(*args, *force) == 2
    error = capsys.readouterr().err
    assert output in error
    assert "it looks like one more input, with the output forgotten" in error
    assert "force" not in error
    assert {path: digest(path) for path in folder.rglob("*.*")} == before


def test_folders_that_were_made_here_or_are_the_input_are_outputs(folder: Path) -> None:
    Path("day1").mkdir()
    shutil.move("take1.wav", "day1/001.wav")
    for _ in range(2):
        assert run("encode", "day1", "day1", "--encoder", ENCODER, "--bandwidth", "1.5", "-y") == 0
        assert run("resynth", "day1", "copies", *PAIR, "-y") == 0
        assert run("decode", "day1", "decoded", "--model", MODEL, "-y") == 0
    assert names("day1") == ["001.npz", "001.wav"]


@pytest.mark.parametrize("name", ["x.wav", "x.w64", "x.au"])
def test_audio_of_another_rate_or_of_two_channels_was_not_made_here(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for shape, rate in (((6_000,), 16_000), ((6_000, 2), 24_000)):
        soundfile.write(name, np.zeros(shape), rate)
        assert run("resynth", "take1.wav", name, *PAIR, "--force") == 2
        assert "was not made by vocos-onnx" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [f"copy.{e}" for e in ("wav", "flac", "ogg", "mp3", "aiff", "opus", "caf", "au", "snd", "w64", "voc", "nist")],
)
def test_a_copy_is_replaced_when_asked_for(folder: Path, capsys: pytest.CaptureFixture[str], name: Any) -> None:
    assert run("resynth", "take1.wav", name, *PAIR) == 0
    before = digest(name)
    assert run("resynth", "take2.wav", name, *PAIR) == 2
    assert "exists, and is only replaced if" in capsys.readouterr().err
    assert digest(name) == before
    assert run("resynth", "take2.wav", name, *PAIR, "-y") == 0
    assert digest(name) != before


@pytest.mark.parametrize(
    ("args", "output"),
    [
        (["decode", "tokens.npy", "out.wav", "--model", MODEL], "out.wav"),
        (["encode", "take1.wav", "out.npz", "--encoder", ENCODER, "--bandwidth", "1.5"], "out.npz"),
        (["encode", "take1.wav", "take2.wav", "made", "--encoder", ENCODER, "--bandwidth", "1.5"], "made/take2.npz"),
        (["resynth", "take1.wav", "out.wav", *PAIR], "out.wav"),
        (["resynth", "take1.wav", "take2.wav", "made", *PAIR], "made/take2.wav"),
        (["resynth", "take1.wav", "copy.wav", *PAIR, "--plot", "out.png"], "out.png"),
        (["demo", "out.wav"], "out.wav"),
        (["demo"], "demo.wav"),
    ],
)
def test_what_exists_is_replaced_only_when_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str], args: Any, output: str
) -> None:
    Path("made").mkdir()
    Path(output).write_bytes(b"something of somebody's")
    before = sorted(str(p) for p in folder.rglob("*"))
    assert run(*args) == 2
    assert f"{output} exists, and is only replaced if you ask for that (--force" in capsys.readouterr().err
    assert Path(output).read_bytes() == b"something of somebody's"
    assert sorted(str(p) for p in folder.rglob("*")) == before  # and nothing else was made
    assert run(*args, "--force") == 0
    assert Path(output).read_bytes() != b"something of somebody's"


@pytest.mark.parametrize("force", [[], ["-y"]])
@pytest.mark.parametrize(
    ("args", "victim"),
    [
        (["report", "take1.wav", "--inputs", "take2.wav"], "take1.wav"),
        (["export", "checkpoint", "-o", "take1.wav"], "take1.wav"),
        (["export-encodec", "checkpoint", "-o", "take1.wav"], "take1.wav"),
        (["quantize", MODEL, "-o", "take1.wav"], "take1.wav"),
        (["quantize", "model.onnx", "-o", "model.onnx"], "model.onnx"),
        (["quantize", "model.onnx", "-o", "link.onnx"], "model.onnx"),
        (["decode", "tokens.npy", "tokens.npy", "--model", MODEL], "tokens.npy"),
        (["encode", "take1.wav", "take2.wav", "--encoder", ENCODER], "take2.wav"),
        (["resynth", "take1.wav", "hard.wav", *PAIR], "take1.wav"),
        (["resynth", "take1.wav", "link.wav", *PAIR], "take1.wav"),
        (["resynth", "take1.wav", "take2.wav", ".", *PAIR], "take2.wav"),
        (["decode", "tokens.npy", "tokens.wav", "--model", MODEL], "tokens.npy"),
        (["decode", "tokens.wav", "tokens.wav", "--model", MODEL], "tokens.npy"),
        (["decode", "tokens.npy", "model.wav", "--model", "model.onnx"], "model.onnx"),
        (["encode", "take1.wav", "model.npz", "--encoder", "model.onnx"], "model.onnx"),
        (["resynth", "take1.wav", "model.wav", "--model", "model.onnx"], "model.onnx"),
        (["resynth", "take1.wav", "copy.wav", *PAIR, "--plot", "take1.png"], "take1.wav"),
        (["resynth", "take1.wav", "copy.wav", *PAIR, "--plot", "copy.png"], "copy.wav"),
        (["export", "checkpoint", "-o", "weights.onnx"], "checkpoint/pytorch_model.bin"),
        (["export-encodec", "checkpoint", "-o", "weights.onnx"], "checkpoint/pytorch_model.bin"),
        (["quantize", MODEL, "-o", "tokens.onnx", "--calibrate", "tokens.npy"], "tokens.npy"),
    ],
)
def test_inputs_are_never_outputs(folder: Path, args: Any, victim: str, force: Any) -> None:
    shutil.copy(MODEL, "model.onnx")
    Path("link.onnx").symlink_to("model.onnx")
    Path("hard.wav").hardlink_to("take1.wav")
    Path("link.wav").symlink_to("take1.wav")
    Path("checkpoint").mkdir()
    Path("checkpoint/pytorch_model.bin").write_bytes(b"weights")
    soundfile.write("copy.wav", np.zeros(100), 24_000)
    for name, target in (
        ("tokens.wav", "tokens.npy"), ("tokens.onnx", "tokens.npy"), ("model.wav", "model.onnx"),
        ("model.npz", "model.onnx"), ("take1.png", "take1.wav"), ("copy.png", "copy.wav"),
        ("weights.onnx", "checkpoint/pytorch_model.bin"),
    ):  # fmt: skip
        Path(name).symlink_to(target)
    before = digest(victim)
    try:
        code = run(*args, *force)
    except SystemExit as end:
        assert isinstance(end.code, int)
        code = end.code
    assert code == 2
    assert digest(victim) == before


def test_two_outputs_that_are_one_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("made").mkdir()
    Path("made/take2.wav").symlink_to("take1.wav")
    assert run("resynth", "take1.wav", "take2.wav", "made", *PAIR, "-y") == 2
    assert "take1.wav and take2.wav would both be written to" in capsys.readouterr().err


def test_a_file_that_appears_in_the_meantime_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"

    def blocks() -> Iterator[np.ndarray]:
        yield AUDIO
        path.write_bytes(b"of another program")

    with pytest.raises(FileExistsError, match="was made by something else in the meantime"):
        save_blocks(path, blocks(), 24_000, overwrite=False)
    assert path.read_bytes() == b"of another program"
    assert names(tmp_path) == ["out.wav"]


# -- links, FIFOs, devices, mounts, modes --


def test_a_link_stays_and_its_target_is_written(folder: Path, write: Any) -> None:
    link, target = name_for(write, "link"), Path("deeper") / name_for(write, "target")
    target.parent.mkdir()
    target.write_bytes(b"old")
    Path("middle").symlink_to(target)
    Path(link).symlink_to("middle")
    write(link)
    assert str(Path(link).readlink()) == "middle"
    assert str(Path("middle").readlink()) == str(target)
    assert target.read_bytes() != b"old"
    assert names(target.parent) == [target.name]


def test_a_link_to_what_is_not_there_yet(folder: Path, write: Any) -> None:
    link, target = name_for(write, "link"), name_for(write, "target")
    Path(link).symlink_to(target)
    write(link)
    assert str(Path(link).readlink()) == target
    assert Path(target).stat().st_size
    Path("lost.wav").symlink_to("nowhere/target.wav")
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere to write lost.wav to"):
        save_audio("lost.wav", AUDIO, 24_000)
    Path("loop.wav").symlink_to("loop.wav")
    with pytest.raises(OSError, match=r"loop\.wav"):
        save_audio("loop.wav", AUDIO, 24_000)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o755])
def test_the_mode_stays(folder: Path, write: Any, mode: int) -> None:
    path = Path(name_for(write, "out"))
    path.touch()
    path.chmod(mode)
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_a_new_file_has_the_mode_of_the_umask(folder: Path, write: Any, umask: int) -> None:
    before = os.umask(umask)
    try:
        write(name_for(write, "new"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path(name_for(write, "new")).stat().st_mode) == 0o666 & ~umask


def test_a_fifo_gets_the_finished_bytes(folder: Path, write: Any) -> None:
    fifo, plain = name_for(write, "fifo"), name_for(write, "plain")
    os.mkfifo(fifo)
    write(plain)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(Path(fifo).read_bytes()))
    reader.start()
    write(fifo)
    reader.join(60)
    assert got == [Path(plain).read_bytes()]
    assert stat.S_ISFIFO(Path(fifo).stat().st_mode)
    assert not [name for name in names(folder) if name.startswith(".vocos")]


def test_devices_stay_devices(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("null.wav").symlink_to("/dev/null")
    assert run("decode", "tokens.npy", "null.wav", "--model", MODEL) == 0
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    Path("full.wav").symlink_to("/dev/full")
    assert run("decode", "tokens.npy", "full.wav", "--model", MODEL) == 2
    assert "error: cannot write full.wav: no space left on device\n" in capsys.readouterr().err


@pytest.mark.parametrize("appending", [False, True])
def test_standard_output_as_a_file(folder: Path, appending: bool) -> None:
    """`decode t.npy out.wav > file`, with out.wav a link to /dev/stdout, writes the audio with no message in it."""
    Path("out.wav").symlink_to("/dev/stdout")
    command = [*PROGRAM, "decode", "tokens.npy", "out.wav", "--model", MODEL]
    Path("file").write_bytes(b"before")
    with Path("file").open("ab" if appending else "wb") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    assert b"wrote out.wav" in done.stderr
    piped = subprocess.run(command, capture_output=True)
    assert run("decode", "tokens.npy", "plain.wav", "--model", MODEL) == 0
    assert piped.stdout == Path("plain.wav").read_bytes()
    assert Path("file").read_bytes() == (b"before" if appending else b"") + piped.stdout


def mounted(folder: Path, *args: str) -> None:
    done = subprocess.run(["mount", *args], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mount: {done.stderr.strip()}")


def test_a_mounted_file_is_written_in_place(folder: Path, write: Any, caplog: pytest.LogCaptureFixture) -> None:
    name = name_for(write, "out")
    Path("outside").write_bytes(b"old" * 100_000)
    Path(name).touch()
    mounted(folder, "--bind", "outside", name)
    try:
        write(name)
        assert "is written in place, which is not atomic" in caplog.text
        write(name_for(write, "plain"))
        assert Path("outside").read_bytes() == Path(name_for(write, "plain")).read_bytes()
    finally:
        subprocess.run(["umount", name], check=True)
    assert not [p for p in folder.iterdir() if p.name.startswith(".vocos")]


@pytest.mark.parametrize("output", ["x.wav", "x.npz", "x.flac"])
def test_a_file_without_room_is_named(folder: Path, output: str) -> None:
    command = ["resynth", "take1.wav", output, *PAIR] if output[2:] != "npz" else ["encode", "take2.wav", output]
    line = shlex.join([*PROGRAM, *command])
    done = subprocess.run(["bash", "-c", f"ulimit -f 1; {line}"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"vocos-onnx: error: cannot write {output}: file too large\n"
    assert names(folder) == ["take1.wav", "take2.wav", "tokens.npy"]


def test_a_full_disk_leaves_what_is_there(folder: Path) -> None:
    """The old file stays and nothing is added, whether the output is renamed or written in place."""
    Path("disk").mkdir()
    mounted(folder, "-t", "tmpfs", "-o", "size=256k", "tmpfs", "disk")
    long = np.random.default_rng(0).normal(0, 0.1, 400_000)
    try:
        save_audio("disk/a.wav", AUDIO, 24_000)
        before = digest("disk/a.wav")
        with pytest.raises(OSError, match="cannot write"):
            save_audio("disk/a.wav", long, 24_000)
        assert digest("disk/a.wav") == before
        assert names("disk") == ["a.wav"]
        Path("in-place.wav").touch()
        mounted(folder, "--bind", "disk/a.wav", "in-place.wav")
        try:
            with pytest.raises(OSError, match="cannot write"):
                save_audio("in-place.wav", long, 24_000)
        finally:
            subprocess.run(["umount", "in-place.wav"], check=True)
        assert digest("disk/a.wav") == before
    finally:
        subprocess.run(["umount", "disk"], check=True)


AS_NOBODY = """
import os, sys
from pathlib import Path
os.chdir(sys.argv[1])
from vocos_onnx import VocosONNX, load_audio, load_tokens, save_audio
import numpy as np, soundfile
os.setgid(65534); os.setuid(65534)
audio = np.linspace(-0.5, 0.5, 2400).astype(np.float32)
save_audio("locked/writable.wav", audio, 24000)
assert soundfile.info("locked/writable.wav").frames == 2400
for act, message in (
    (lambda: save_audio("locked/new.wav", audio, 24000), "cannot write locked/new.wav: no permission to write to the "),
    (lambda: save_audio("open/read-only.wav", audio, 24000), "cannot write open/read-only.wav: it is read-only"),
    (lambda: save_audio("secret/new.wav", audio, 24000), "cannot write secret/new.wav: permission denied"),
    (lambda: load_audio("secret.wav", 24000), "cannot read secret.wav: permission denied"),
    (lambda: load_audio("secret/a.wav", 24000), "cannot read secret/a.wav: permission denied"),
    (lambda: load_tokens("secret.npy"), "cannot read secret.npy: permission denied"),
    (lambda: load_tokens("secret/a.npy"), "cannot read secret/a.npy: permission denied"),
    (lambda: VocosONNX("secret.onnx"), "cannot read secret.onnx: permission denied"),
    (lambda: VocosONNX.from_pretrained("secret"), "cannot read secret: permission denied"),
):
    try:
        act()
    except PermissionError as error:
        assert message in str(error), error
    else:
        raise AssertionError(message)
"""


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can become somebody else")
def test_what_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.owner() == "root" and parent != Path("/tmp") and "pytest" in parent.name:
            parent.chmod(0o755)
    (tmp_path / "locked").mkdir(mode=0o755)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "secret").mkdir(mode=0o700)
    for name in ("secret.wav", "secret.npy", "secret.onnx"):
        (tmp_path / name).touch(mode=0o600)
    for name, mode in (("locked/writable.wav", 0o666), ("open/read-only.wav", 0o444)):
        (tmp_path / name).write_bytes(b"old")
        (tmp_path / name).chmod(mode)
    done = subprocess.run([sys.executable, "-c", AS_NOBODY, str(tmp_path)], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert "is written in place, which is not atomic" in done.stderr
    assert (tmp_path / "open/read-only.wav").read_bytes() == b"old"
    assert (names(tmp_path / "open")) == ["read-only.wav"]


def test_nothing_stays_after_an_error(tmp_path: Path, write: Any) -> None:
    with pytest.raises(FileNotFoundError):
        check_target(tmp_path / "no" / "folder.wav")
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "x.wav") as partial:
        partial.write_bytes(b"half")
        1 / 0  # noqa: B018
    assert names(tmp_path) == []


def test_a_child_that_is_forked_while_a_file_is_written(tmp_path: Path) -> None:
    """When the child ends, it does not remove the file its parent is writing."""

    def blocks() -> Iterator[np.ndarray]:
        yield AUDIO
        if not (child := os.fork()):
            sys.exit(0)
        os.waitpid(child, 0)
        yield AUDIO

    before = os.getpid()
    try:
        save_blocks(tmp_path / "out.wav", blocks(), 24_000)
    except SystemExit:
        if os.getpid() != before:
            os._exit(0)
        raise
    assert load_audio(tmp_path / "out.wav", 24_000).shape == (4800,)


def test_without_a_folder_for_temporary_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is needed only for input that is not a regular file."""
    import tempfile

    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert run("decode", "tokens.npy", "out.wav", "--model", MODEL) == 0


# -- standard streams --


def closed(*descriptors: int) -> Callable[[], None]:
    def close() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    return close


@pytest.mark.parametrize("descriptors", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
def test_closed_standard_streams(folder: Path, descriptors: Any) -> None:
    """The work is done, and no message is written to a file that was opened under a standard descriptor."""
    for args, output in (
        (["decode", "tokens.npy", "out.wav", "--model", MODEL], "out.wav"),
        (["resynth", "take1.wav", "copy.wav", *PAIR], "copy.wav"),
        (["encode", "take1.wav", "t.npz", "--encoder", ENCODER, "--bandwidth", "1.5"], "t.npz"),
        (["decode", "tokens.npy", "out.wav", "--model", MODEL], "out.wav"),  # refused now
    ):
        before = Path(output).read_bytes() if Path(output).exists() else None
        done = subprocess.run([*PROGRAM, *args], preexec_fn=closed(*descriptors), stdin=subprocess.DEVNULL)
        assert done.returncode == (0 if before is None else 2)
        assert before is None or Path(output).read_bytes() == before
    assert run("decode", "tokens.npy", "plain.wav", "--model", MODEL) == 0
    assert Path("out.wav").read_bytes() == Path("plain.wav").read_bytes()


def test_messages_never_get_into_the_audio_on_standard_output(folder: Path) -> None:
    Path("so.wav").symlink_to("/dev/stdout")
    command = [*PROGRAM, "decode", "tokens.npy", "so.wav", "--model", MODEL]
    done = subprocess.run(command, preexec_fn=closed(2), stdout=subprocess.PIPE)
    assert done.returncode == 0
    assert run("decode", "tokens.npy", "plain.wav", "--model", MODEL) == 0
    assert done.stdout == Path("plain.wav").read_bytes()
    stream = [*PROGRAM, "stream", "tokens", "--model", MODEL, "--bandwidth", "1.5"]
    done = subprocess.run(stream, input=b"abc", preexec_fn=closed(2), stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (2, b"")


def test_a_stream_to_nowhere_is_an_error(folder: Path) -> None:
    tokens = np.load("tokens.npy").T.astype("<i2").tobytes()
    stream = [*PROGRAM, "stream", "tokens", "--model", MODEL, "--bandwidth", "1.5"]
    done = subprocess.run(stream, input=tokens, preexec_fn=closed(1), stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert b"Bad file descriptor" in done.stderr
    done = subprocess.run(stream, preexec_fn=closed(0), capture_output=True)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"standard input is empty or closed" in done.stderr


def test_a_name_that_the_terminal_cannot_show_stops_nothing(folder: Path) -> None:
    name = os.fsdecode(b"b\xff.wav")
    shutil.copy("take1.wav", name)
    Path("made").mkdir()
    command = [*PROGRAM, "resynth", "take1.wav", name, "take2.wav", "made", *PAIR]
    for encoding in ("utf-8:strict", "ascii:strict", "cp1252:strict"):
        done = subprocess.run([*command, "-y"], capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding})
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.count(b"wrote made/") == 3


# -- signals --


@pytest.fixture(scope="module")
def long_recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "long.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 24_000 * 240).astype(np.float32), 24_000)
    return path


def in_the_middle(command: list[str], folder: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Returns a process that has started to write its output."""
    process: subprocess.Popen[bytes] = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )
    while process.poll() is None and not [p for p in folder.glob(".vocos-*/*") if p.stat().st_size > 50_000]:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("times", [1, 3])
def test_signals_leave_nothing(tmp_path: Path, long_recording: Path, number: Any, times: int) -> None:
    process = in_the_middle([*PROGRAM, "resynth", str(long_recording), "copy.wav"], tmp_path)
    for _ in range(times):
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (128 + number, b"", b"")
    assert names(tmp_path) == []


def test_an_ignored_signal_stays_ignored(tmp_path: Path, long_recording: Path) -> None:
    """For example under nohup."""

    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = in_the_middle([*PROGRAM, "resynth", str(long_recording), "copy.wav"], tmp_path, preexec_fn=nohup)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (143, b"", b"")
    assert names(tmp_path) == []


def test_ctrl_c_at_any_time(tmp_path: Path, long_recording: Path) -> None:
    """No traceback, even during imports, once Python itself has started."""
    codes = []
    for milliseconds in range(40, 400, 30):
        process = subprocess.Popen(
            [*PROGRAM, "resynth", str(long_recording), "copy.wav"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        time.sleep(milliseconds / 1000)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        codes.append((process.returncode, err))
        assert names(tmp_path) == []
    shown = [(code, err) for code, err in codes if (code, err) != (130, b"")]
    # before the program's first line Python itself determines how it ends
    assert all(b"vocos_onnx/cli/" not in err and b"numpy" not in err for _, err in shown), shown
    assert codes[-1] == (130, b"")


def test_importing_and_using_the_package_leaves_signals_alone() -> None:
    code = """
import signal
before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
import vocos_onnx, vocos_onnx.cli, vocos_onnx.__main__
assert vocos_onnx.cli.main(["info"]) == 0
assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_file_is_written_while_it_is_read_by_nobody_else(folder: Path) -> None:
    """Readers see the old file until the new one is complete."""
    save_audio("out.wav", AUDIO, 24_000)

    def blocks() -> Iterator[np.ndarray]:
        yield AUDIO * 0.5
        assert load_audio("out.wav", 24_000).max() > 0.49
        yield AUDIO * 0.5

    save_blocks("out.wav", blocks(), 24_000)
    assert load_audio("out.wav", 24_000).shape == (4800,)
    assert load_audio("out.wav", 24_000).max() < 0.26


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder of the system's that takes no files")
def test_a_folder_that_takes_no_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args, message in (
        (["decode", "tokens.npy", "/proc/x.wav"], "cannot write /proc/x.wav: the folder /proc takes no files\n"),
        (["encode", "take1.wav", "/proc/x.npz"], "cannot write /proc/x.npz: the folder /proc takes no files\n"),
        (["demo", "/proc/x.wav"], "cannot write /proc/x.wav: the folder /proc takes no files\n"),
        (["decode", "tokens.npy", "/proc/x/"], "cannot make the folder /proc/x: nothing can be made there\n"),
    ):
        assert run(*args) == 2
        printed = capsys.readouterr().err
        assert printed.endswith(f"vocos-onnx: error: {message}"), printed
