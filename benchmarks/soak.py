"""Soak test of one object: many decodes, threads, processes, and little memory: python benchmarks/soak.py

    python benchmarks/soak.py [--model M] [--threads 8] [--decodes 10000]

Every result is compared bit for bit with that of a single thread. Prints the figures in
docs/explanation/reliability.md.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

from vocos_onnx import EncodecONNX, VocosONNX
from vocos_onnx.model.cpus import available_cpus

LONGEST = 400  # most frames that the threads decode at once
LIMITED = """
import resource, sys
import numpy as np
from vocos_onnx.cli import main
limit = int(sys.argv[1]) << 20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(main(sys.argv[2:]))
"""
IN_A_GROUP = """
import os, sys
from pathlib import Path
Path(sys.argv[1]).write_text(str(os.getpid()))
from vocos_onnx.cli import main
from vocos_onnx.model.cpus import available_cpus
print(available_cpus())
sys.exit(main(sys.argv[2:]) if sys.argv[2:] else 0)
"""
CGROUPS = Path("/sys/fs/cgroup")  # v2; v1 has a folder for each controller
V2 = (CGROUPS / "cgroup.controllers").exists()
MEMORY, LIMIT, PEAK = (
    (CGROUPS, "memory.max", "memory.peak")
    if V2
    else (CGROUPS / "memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes")
)
CPU, QUOTAS = (CGROUPS, ("cpu.max",)) if V2 else (CGROUPS / "cpu", ("cpu.cfs_period_us", "cpu.cfs_quota_us"))


def make_tokens(seed: int, longest: int = LONGEST) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(1024, size=(rng.choice([2, 4, 8, 16]), rng.integers(1, longest + 1)))


def memory() -> tuple[float, float]:
    """Resident and peak memory of this process, in MB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return tuple(int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


def threads(vocos: VocosONNX, count: int, decodes: int) -> None:
    """Checks that decodes from many threads at once equal those of one thread."""
    expected = [vocos.decode(make_tokens(seed)) for seed in range(50)]
    begun = time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        audio = pool.map(lambda i: (i % 50, vocos.decode(make_tokens(i % 50))), range(decodes))
        different = sum(not np.array_equal(given, expected[seed]) for seed, given in audio)
    took = time.perf_counter() - begun
    print(f"- {count} threads, {decodes} decodes: {different} differ from one thread's ({took:.0f} s)", flush=True)
    assert not different


def streams(vocos: VocosONNX, count: int) -> None:
    """Checks streams in several threads at the same time."""
    tokens = [make_tokens(seed, 300) for seed in range(count * 4)]

    def streamed(given: np.ndarray) -> np.ndarray:
        return np.concatenate(list(vocos.decode_stream(given[:, i : i + 7] for i in range(0, given.shape[1], 7))))

    expected = [streamed(given) for given in tokens]
    with ThreadPoolExecutor(count) as pool:
        different = sum(not np.array_equal(a, b) for a, b in zip(pool.map(streamed, tokens), expected, strict=True))
    print(f"- {count} threads, {len(tokens)} streams: {different} differ from one thread's", flush=True)
    assert not different


def _in_a_process(model: str | None, seed: int) -> np.ndarray:
    return VocosONNX(model, threads=1).decode(make_tokens(seed))


def processes(vocos: VocosONNX, model: str | None) -> None:
    """Checks that spawned processes, and ones forked after a session was used, create their own sessions."""
    for method in sorted(set(multiprocessing.get_all_start_methods()) & {"fork", "spawn", "forkserver"}):
        with multiprocessing.get_context(method).Pool(4) as pool:
            results = [pool.apply_async(_in_a_process, (model, seed)) for seed in range(20)]
            audio = [result.get(120) for result in results]
        single = VocosONNX(model, threads=1)
        different = sum(not np.array_equal(a, single.decode(make_tokens(seed))) for seed, a in enumerate(audio))
        print(f"- 4 processes by {method}, 20 decodes: {different} differ", flush=True)
        assert not different


def memory_curve(vocos: VocosONNX, decodes: int) -> None:
    """Checks that peak memory stays level over decodes of 1 to 2,000 frames."""
    rng, marks = np.random.default_rng(0), {100, 300, 1000, 3000, decodes}
    first = 0.0
    for i in range(1, decodes + 1):
        vocos.decode(rng.integers(1024, size=(8, rng.integers(1, 2001))))
        if i in marks:
            resident, peak = memory()
            first = first or peak
            print(f"- after {i} decodes: {resident:.0f} MB, peak {peak:.0f} MB ({peak / first:.2f})", flush=True)
    assert memory()[1] <= 1.2 * first


def limited(folder: Path) -> None:
    """Checks that with less and less address space a command either completes or fails without partial output."""
    np.save(folder / "tokens.npy", np.random.default_rng(0).integers(1024, size=(8, 45_000)))
    outcomes: dict[str, list[int]] = {}
    for megabytes in (2000, 1500, 1200, 1000, 900, 800, 700, 600, 500, 400, 300):
        output = folder / f"{megabytes}.wav"
        command = ["decode", str(folder / "tokens.npy"), str(output), "--threads", "1"]
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, str(megabytes), *command], capture_output=True, text=True, timeout=300
        )
        whole = output.exists() and soundfile.info(output).frames == 45_000 * 320
        assert whole == (done.returncode == 0), (megabytes, done)
        assert whole or not list(folder.glob(f"*{megabytes}.wav*")), "half a file"
        assert not list(folder.glob(".vocos-*")), "something was left behind"
        outcome = "done" if whole else f"exit code {done.returncode}"
        outcomes.setdefault(outcome, []).append(megabytes)
        if not whole:
            print(f"  {megabytes} MB: {done.stderr.strip().splitlines()[-1][:150] if done.stderr else ''}", flush=True)
    for outcome, sizes in outcomes.items():
        print(f"- ten minutes of tokens within {', '.join(map(str, sizes))} MB of address space: {outcome}", flush=True)


@contextmanager
def control_group(root: Path, **settings: str) -> Iterator[Path]:
    """Creates a control group, and writes these settings to its files."""
    group = root / f"vocos-soak-{os.getpid()}"
    group.mkdir()
    try:
        for name, value in settings.items():
            (group / name).write_text(value)
        yield group
    finally:
        group.rmdir()


def run_in(group: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command line, if any, in a control group, after printing the number of threads."""
    program = [sys.executable, "-c", IN_A_GROUP, str(group / "cgroup.procs"), *command]
    return subprocess.run(program, capture_output=True, text=True)


def in_control_groups(folder: Path, frames: int) -> None:
    """Checks container limits: if a minute of audio fits in memory, so does any length; nothing is killed half-way."""
    try:
        for root, file in ((CPU, QUOTAS[0]), (MEMORY, PEAK)):
            with control_group(root) as group:
                (group / file).read_text()
    except OSError as error:
        print(f"- control groups: not run, they cannot be made here ({error})", flush=True)
        return
    for cpus in (0.5, 1.0, 1.5):
        values = [f"{round(cpus * 1e5)} 100000"] if V2 else ["100000", str(round(cpus * 1e5))]
        with control_group(CPU, **dict(zip(QUOTAS, values, strict=True))) as group:
            threads = int(run_in(group).stdout)
        print(f"- in a control group of {cpus:g} CPUs: {threads} threads", flush=True)
        assert threads == min(math.ceil(cpus), available_cpus())
    tokens = np.random.default_rng(0).integers(1024, size=(8, frames))
    output = folder / "out.wav"
    outcomes = {}
    for megabytes in (400, 300, 200, 150, 125, 50):
        for count in (60 * 75, frames):
            np.save(folder / "tokens.npy", tokens[:, :count])
            with control_group(MEMORY, **{LIMIT: str(megabytes << 20)}) as group:
                done = run_in(group, "decode", str(folder / "tokens.npy"), str(output))
                most = int((group / PEAK).read_text()) >> 20
            whole = output.exists() and soundfile.info(output).frames == count * 320
            assert whole == output.exists() == (done.returncode == 0), (megabytes, count, done)
            output.unlink(missing_ok=True)
            outcomes[megabytes, count] = done.returncode
            how = "done" if whole else f"exit code {done.returncode}"
            print(f"  {count / 4500:g} minutes within {megabytes} MB: {how}, peak {most} MB", flush=True)
        assert outcomes[megabytes, 60 * 75] == outcomes[megabytes, frames], "it depends on the length"
    assert not any(outcomes[400, count] for count in (60 * 75, frames)), done.stderr
    print(f"- in control groups of {megabytes} to 400 MB a minute and {frames / 4500:g} minutes end alike", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="by default the bundled codec")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--decodes", type=int, default=10_000)
    args = parser.parse_args()
    vocos = VocosONNX(args.model)
    tokens = EncodecONNX().encode(np.zeros(24_000), 24_000)
    assert np.isfinite(vocos.decode(tokens)).all()
    print(f"python {platform.python_version()}, {args.threads} threads, {args.model or 'the bundled codec'}")
    threads(vocos, args.threads, args.decodes // 10)
    streams(vocos, args.threads)
    processes(vocos, args.model)
    with tempfile.TemporaryDirectory() as folder:
        limited(Path(folder))
        in_control_groups(Path(folder), 75 * (3600 if args.decodes >= 10_000 else 300))
    memory_curve(vocos, args.decodes)


if __name__ == "__main__":
    main()
