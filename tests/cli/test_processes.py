"""Tests of what a process leaves in the user's home, and of how its forked children end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.helpers import DATA, FORKS

MODEL, ENCODER = str(DATA / "encodec.onnx"), str(DATA / "encoder.onnx")
USES = {
    "decode": f"from vocos_onnx import VocosONNX; VocosONNX({MODEL!r}).decode([[1, 2], [3, 4]])",
    "encode": f"from vocos_onnx import EncodecONNX; EncodecONNX({ENCODER!r}).encode([0.0] * 999, 24000, 1.5)",
    "command line": "from vocos_onnx.cli import main; assert main(['resynth', 'a.wav', 'out.wav']) == 0",
    "info": f"from vocos_onnx.cli import main; assert main(['info', {MODEL!r}]) == 0",
}


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a user with an empty home; without CI, under which onnxruntime would not write there."""
    left_out = ("CI", "ORT_DISABLE_TELEMETRY")
    kept = {key: value for key, value in os.environ.items() if key not in left_out and not key.startswith("XDG_")}
    return {**kept, "HOME": str(home), **more}


def start(code: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    command = [sys.executable, "-W", FORKS, "-c", code]
    return subprocess.run(
        command, cwd=folder, env=environment(home, **more), capture_output=True, text=True, timeout=120
    )


def found(home: Path) -> list[str]:
    return [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize("use", list(USES))
def test_nothing_is_written_into_the_home(tmp_path: Path, use: Any) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(2400), 24_000)
    done = start(USES[use] + "\nimport time; time.sleep(0.5)", tmp_path)
    assert done.returncode == 0, done.stderr
    assert found(tmp_path / "home") == []


def test_what_the_user_chose_about_telemetry_stays(tmp_path: Path) -> None:
    code = USES["decode"] + "\nimport os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert start(code, tmp_path, ORT_DISABLE_TELEMETRY="0").stdout == "0\n"
    assert start(code, tmp_path).stdout == "1\n"
    assert start("import onnxruntime\n" + code, tmp_path).stdout == "1\n"


def test_importing_the_package_changes_no_environment(tmp_path: Path) -> None:
    code = "import os; before = dict(os.environ); import vocos_onnx, vocos_onnx.cli; assert before == dict(os.environ)"
    done = start(code, tmp_path)
    assert done.returncode == 0, done.stderr


FORK = """
import os, sys, time
import numpy as np
from vocos_onnx import EncodecONNX, VocosONNX
vocos, tokens = VocosONNX({model!r}, threads={threads}), np.arange(800).reshape(2, 400)
encoder, audio = EncodecONNX({encoder!r}, threads={threads}), np.linspace(-1, 1, 24000)
before, codes = vocos.decode(tokens), encoder.encode(audio, 24000, 1.5)
{parent}
child = os.fork()
if not child:
    import atexit
    atexit.register(lambda: print("atexit", flush=True))
    {child}
    print("before the end", end=" ")  # what is buffered is written
    sys.exit(7)
for _ in range(600):
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        break
    time.sleep(0.05)
else:
    os.kill(child, 9)
    sys.exit("the child did not end")
assert os.waitstatus_to_exitcode(status) == 7, status
assert np.array_equal(vocos.decode(tokens), before)  # the parent's goes on
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize(
    ("parent", "child"),
    [
        ("", ""),
        ("", "assert np.array_equal(vocos.decode(tokens), before)"),
        ("", "assert np.array_equal(encoder.encode(audio, 24000, 1.5), codes)"),
        ("", f"assert np.abs(VocosONNX({MODEL!r}, threads=2).decode(tokens) - before).max() <= 1e-6"),
        ("", "del vocos, encoder; import gc; gc.collect()"),
        ("stream = vocos.stream(); stream.push(tokens)", "stream.flush()"),
        ("other = VocosONNX(threads=2); del other", ""),
    ],
)
def test_a_forked_child_ends(tmp_path: Path, threads: int, parent: str, child: str) -> None:
    """It ends with its exit code, after its atexit functions have run and its buffers are written."""
    code = FORK.format(model=MODEL, encoder=ENCODER, threads=threads, parent=parent, child=child)
    done = start(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in ("before the end atexit\n", "atexit\nbefore the end ")


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(tmp_path: Path, method: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"""
import multiprocessing
import numpy as np
from vocos_onnx import VocosONNX

def work(seed):
    return VocosONNX({MODEL!r}).decode(np.random.default_rng(seed).integers(1024, size=(2, 50)))

if __name__ == "__main__":
    expected = [work(seed) for seed in range(4)]
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        assert all(map(np.array_equal, pool.map(work, range(4)), expected))
    process = multiprocessing.get_context({method!r}).Process(target=work, args=(0,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
""")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("use", ["vocos.decode(tokens)", f"VocosONNX({MODEL!r})", "encoder.encode(audio, 24000)"])
def test_a_daemon_thread_at_work_does_not_crash_the_end(tmp_path: Path, use: str, seconds: float) -> None:
    code = f"""
import threading, time
import numpy as np
from vocos_onnx import EncodecONNX, VocosONNX
vocos, tokens = VocosONNX(threads=1), np.zeros((16, 300), int)
encoder, audio = EncodecONNX(threads=1), np.zeros(48000)
def work():
    while True:
        {use}
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
time.sleep({seconds})
"""
    done = start(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("kib", range(200_000, 400_000, 25_000))
def test_too_little_memory_ends_the_command_with_nothing_half_written(tmp_path: Path, kib: Any) -> None:
    """Without memory OpenBLAS ends the process or waits forever, depending on its version."""
    soundfile.write(tmp_path / "a.wav", np.zeros(24_000), 24_000)
    command = f"ulimit -v {kib}; exec {sys.executable} -m vocos_onnx resynth a.wav out.wav"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    if "cannot allocate memory for thread-local data: ABORT" in done.stderr:
        pytest.skip("here glibc itself has ended the process")
    assert done.returncode in (0, 2), done
    assert [p.name for p in tmp_path.iterdir() if p.name != "out.wav"] == ["a.wav"]
    assert (tmp_path / "out.wav").exists() == (done.returncode == 0)


def test_products_without_memory(tmp_path: Path) -> None:
    code = f"""
import re, resource
from pathlib import Path
from vocos_onnx import VocosONNX
import onnxruntime
size = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (size + (20 << 20),) * 2)
try:
    VocosONNX({MODEL!r})
except MemoryError as error:
    print(error)
"""
    done = start(code, tmp_path)
    assert "64 MiB of address space" in done.stdout, done
