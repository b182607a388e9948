"""How the benchmarks time: contenders run in separate processes, in turn, and disturbed rounds are dropped.

Each contender runs in its own process, because thread pools that spin after their work disturb one another within a
process. In each round all contenders are called in turn, in rotating order, with a pause in between; a turn is one
warm-up call and then the timed calls. On Linux, rounds in which other programs took more than 5 % of the processor time
are repeated.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

OTHERS = 0.05  # the largest share of processor time that other programs may take during a round
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
Given = TypeVar("Given")
Decode = Callable[[Given], np.ndarray]
Cut = Literal["whole", "items", "pieces", "chunks", "pool"]


@dataclass(frozen=True)
class Case:
    """The input of one call.

    seconds: length of the audio.
    cut: "whole", in one piece; "items", a list of items of 1 s; "pieces", a list of random pieces of 2 s on average;
        "chunks", through a Stream; "pool", through ``streams`` streams of a StreamPool, each of ``seconds``.
    """

    seconds: float
    cut: Cut = "whole"
    streams: int = 1

    @property
    def audio(self) -> float:
        """Total seconds of audio."""
        return self.seconds * self.streams


def serve(
    load: Callable[[], tuple[Decode[Given], Callable[[], str]]],
    make_input: Callable[[Case], Given],
) -> None:
    """A worker: answers {"case", "calls"} with {"times", "cores", "cpu"}; "save" names a file for the result."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so nothing that a library prints is mistaken for an answer
    try:
        decode, note = load()
        print("{}", file=answers, flush=True)
        for line in sys.stdin:
            order = json.loads(line)
            given = make_input(Case(**order["case"]))
            result = decode(given)
            if order["save"]:
                for _ in range(2):  # the first calls profile and allocate
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
    """The parent's end of a worker, a module run with arguments. Raises RuntimeError if the worker fails."""

    def __init__(self, name: str, module: str, *arguments: object, environment: Mapping[str, str] | None = None):
        self.name, self.note, self.cpu = name, "", 0.0
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._answer()

    def __call__(self, case: Case, calls: int, save: Path | None = None) -> dict[str, Any]:
        assert self._process.stdin is not None
        order = {"case": asdict(case), "calls": calls, "save": str(save) if save else None}
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


class BusyLoop:
    """A process that keeps one core busy until it is closed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])

    @property
    def cpu(self) -> float:
        """Seconds of processor time that it has used; 0 without /proc."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@dataclass(frozen=True)
class Turn:
    """A measurement made once per round, under the name of its row."""

    name: str
    contender: Contender
    case: Case
    calls: int


@dataclass(frozen=True)
class Times:
    """The times of one turn: seconds of audio, the median seconds of each round, and the cores that were busy."""

    audio: float
    seconds: list[float]
    cores: float

    def ratios(self, other: Times) -> list[float]:
        """How many times as fast as another turn, for the same amount of audio, by round."""
        each = zip(other.seconds, self.seconds, strict=True)
        return [theirs / own * self.audio / other.audio for theirs, own in each]


@dataclass(frozen=True)
class Measured:
    """The rounds that count, by turn; how many were dropped, and whether every round was disturbed."""

    times: dict[str, Times]
    rounds: int
    dropped: int
    disturbed: bool


def difference(given: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """The largest difference relative to the expected peak, and the SNR in dB. Exits if the shapes differ."""
    if given.shape != expected.shape:
        raise SystemExit(f"audio has shape {given.shape}, not {expected.shape}")
    noise = given.astype(np.float64) - expected
    power = np.square(expected, dtype=np.float64).sum()
    snr = 10 * np.log10(power / max(np.square(noise).sum(), 1e-30))
    return float(np.abs(noise).max() / np.abs(expected).max()), float(snr)


def measure(turns: Sequence[Turn], rounds: int, pause: float = 0.1, beside: BusyLoop | None = None) -> Measured:
    """Measures ``rounds`` undisturbed rounds, if possible. The load in ``beside`` does not count as a disturbance."""
    quiet: list[list[dict[str, Any]]] = []
    disturbed: list[list[dict[str, Any]]] = []
    workers: list[Contender | BusyLoop] = [*{id(turn.contender): turn.contender for turn in turns}.values()]
    workers += [beside] if beside else []
    while len(quiet) < rounds and len(disturbed) < rounds:
        answers: list[dict[str, Any]] = [{} for _ in turns]
        start, busy, own = time.perf_counter(), machine_seconds(), sum(worker.cpu for worker in workers)
        for j in range(len(turns)):
            place = (len(quiet) + j) % len(turns)
            time.sleep(pause)
            answers[place] = turns[place].contender(turns[place].case, turns[place].calls)
        others = machine_seconds() - busy - (sum(worker.cpu for worker in workers) - own)
        share = others / (time.perf_counter() - start) / (os.cpu_count() or 1)
        (quiet if share <= OTHERS else disturbed).append(answers)
    kept = quiet or disturbed
    times = {
        turn.name: Times(
            turn.case.audio,
            [statistics.median(answers[place]["times"]) for answers in kept],
            statistics.median(answers[place]["cores"] for answers in kept),
        )
        for place, turn in enumerate(turns)
    }
    return Measured(times, len(kept), len(disturbed) if kept is quiet else 0, kept is not quiet)


def machine_seconds() -> float:
    """Busy seconds of all cores together, including time taken by a hypervisor; 0 without /proc."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def versions(*packages: str) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def processor() -> str:
    """The processor, and the instruction sets that matter for the speed."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
        flags = next(line for line in lines if line.startswith("flags")).split()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
    return ", ".join([name, *(flag for flag in FLAGS if flag in flags)])
