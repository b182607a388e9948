"""How the benchmarks time: contenders in processes of their own, in turn, and rounds that others disturbed dropped.

Each contender lives in its own process, because thread pools that spin after their work disturb one another inside one.
In each round all are called in turn, in rotating order, with a pause in between; a turn is one call to warm up and then
the timed ones. On Linux, rounds in which other programs took more than 5 % of the processor's time are repeated.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

OTHERS = 0.05  # of the processor's time: the most that other programs may take during a round
Decode = Callable[[np.ndarray], np.ndarray]
Rounds = list[dict[str, dict[str, Any]]]
Timings = dict[str, tuple[list[float], float, list[float]]]  # by name: median seconds by round, cores, ratios by round


def serve(load: Callable[[], tuple[Decode, Callable[[], str]]], make_input: Callable[[float], np.ndarray]) -> None:
    """A worker: answer {"seconds", "calls"} with {"times", "cores", "cpu"}; "save" names a file for the result."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that a library prints shall be taken for an answer
    try:
        decode, note = load()
        print("{}", file=answers, flush=True)
        for line in sys.stdin:
            order = json.loads(line)
            given = make_input(order["seconds"])
            result = decode(given)
            if order["save"]:
                for _ in range(2):  # profiles and allocations of the first calls
                    result = decode(given)
                np.save(order["save"], result)
            times, before = [], time.process_time()
            for _ in range(order["calls"]):
                start = time.perf_counter()
                decode(given)
                times.append(time.perf_counter() - start)
            cpu = time.process_time()
            cores = (cpu - before) / sum(times) if times else 0
            print(json.dumps({"times": times, "cores": cores, "cpu": cpu, "note": note()}), file=answers, flush=True)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        print(json.dumps({"error": f"{type(error).__name__}: {lines[0]}"}), file=answers, flush=True)


class Contender:
    """The parent's end of a worker, which is a module with arguments. Raises RuntimeError if the worker fails."""

    def __init__(self, name: str, module: str, *arguments: object) -> None:
        self.name, self.note, self.cpu = name, "", 0.0
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def __call__(self, seconds: float, calls: int, save: Path | None = None) -> dict[str, Any]:
        assert self._process.stdin is not None
        order = {"seconds": seconds, "calls": calls, "save": str(save) if save else None}
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
        if "error" in answer:
            self.close()
            raise RuntimeError(answer["error"])
        self.note, self.cpu = answer.get("note", ""), answer.get("cpu", 0.0)
        return answer


def difference(given: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """The largest difference over the peak of the expected, and the SNR in dB. Ends the program for another shape."""
    if given.shape != expected.shape:
        raise SystemExit(f"audio has shape {given.shape}, not {expected.shape}")
    noise = given.astype(np.float64) - expected
    power = np.square(expected, dtype=np.float64).sum()
    snr = 10 * np.log10(power / max(np.square(noise).sum(), 1e-30))
    return float(np.abs(noise).max() / np.abs(expected).max()), float(snr)


def measure(contenders: list[Contender], seconds: float, rounds: int, calls: int, pause: float = 0.1) -> Rounds:
    """The answers of each undisturbed round by name of the contender."""
    quiet: Rounds = []
    disturbed: Rounds = []
    while len(quiet) < rounds and len(disturbed) < rounds:
        answers = {}
        start, busy, own = time.perf_counter(), machine_seconds(), sum(c.cpu for c in contenders)
        for j in range(len(contenders)):
            contender = contenders[(len(quiet) + j) % len(contenders)]
            time.sleep(pause)
            answers[contender.name] = contender(seconds, calls)
        others = machine_seconds() - busy - (sum(c.cpu for c in contenders) - own)
        share = others / (time.perf_counter() - start) / (os.cpu_count() or 1)
        (quiet if share <= OTHERS else disturbed).append(answers)
    kept = quiet or disturbed
    what = f"{len(disturbed)} dropped" if kept is quiet else "DISTURBED by other programs"
    print(f"{seconds:g} s of audio: {len(kept)} rounds, each the median of {calls} timed calls; {what}")
    return kept


def timings(rounds: Rounds, reference: str) -> Timings:
    """By name, the reference first: median seconds by round, cores, and the ratios to the reference by round."""
    times = {name: [statistics.median(answers[name]["times"]) for answers in rounds] for name in rounds[0]}
    return {
        name: (
            times[name],
            statistics.median(answers[name]["cores"] for answers in rounds),
            [other / own for other, own in zip(times[reference], times[name], strict=True)],
        )
        for name in sorted(times, key=lambda name: name != reference)
    }


def table(rounds: Rounds, reference: str, seconds: float) -> None:
    print(f"  {'':24} {'median s':>9}  {'min - max s':17}  {'ratio':>5}  {'min - max':11}  {'x real time':>11}  cores")
    for name, (values, cores, ratios) in timings(rounds, reference).items():
        median, ratio = statistics.median(values), statistics.median(ratios)
        print(
            f"  {name:24} {median:9.4f}  {min(values):.4f} - {max(values):.4f}  {ratio:6.2f}  "
            f"{min(ratios):.2f} - {max(ratios):.2f}  {seconds / median:11.0f}  {cores:5.2f}"
        )
    print(flush=True)


def time_all(
    contenders: list[Contender], lengths: list[float], rounds: int, calls: tuple[int, int, int], pause: float
) -> None:
    """Print the table of every length, and close the contenders, of which the first is the reference.

    ``calls`` are the timed ones of a round, for lengths under 5 s, up to 20 s and above, where there are a third of the
    rounds.
    """
    print(f"timing, load average {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    reference = contenders[0].name
    try:
        for seconds in lengths:
            few = rounds if seconds <= 20 else max(1, rounds // 3)
            count = calls[0] if seconds < 5 else calls[1] if seconds <= 20 else calls[2]
            table(measure(contenders, seconds, few, count, pause), reference, seconds)
    finally:
        for contender in contenders:
            contender.close()


def arguments(description: str | None, rounds: int, worker: int) -> argparse.Namespace:
    """The options; ``--worker`` is how a benchmark starts its contenders, with so many values."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="threads of every contender")
    parser.add_argument("--seconds", type=float, nargs="+", default=[1, 10, 60], help="lengths of audio")
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds for each length; a third above 20 s")
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between two turns")
    parser.add_argument("--worker", nargs=worker, help=argparse.SUPPRESS)
    return parser.parse_args()


def machine_seconds() -> float:
    """Seconds that all cores together have been busy, those taken by a hypervisor too; 0 where there is no /proc."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def machine(*packages: str) -> list[str]:
    """Two lines: the versions of packages, and the processor."""
    versions = [f"python {platform.python_version()}"]
    for package in packages:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} absent")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
        flags = next(line for line in lines if line.startswith("flags")).split()
        processor += "".join(f", {flag}" for flag in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if flag in flags)
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    return [", ".join(versions), f"{processor}, {os.cpu_count()} cores"]


def print_machine(*packages: str) -> None:
    print(*machine(*packages), sep="\n", flush=True)
