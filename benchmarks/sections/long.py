"""The command line on a minute and on an hour, and many decodes through one object."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.bench import Bench
from benchmarks.contenders import INT8, OURS
from benchmarks.results import Row, Section, Table, rounded
from benchmarks.watch import watched

SHORTEST, LONGEST = 1, 60  # minutes
COMMANDS = {
    "decode, official geometry": ("decode", "TOKENS", "AUDIO", "--model", "MODEL"),
    "resynth, bundled codec": ("resynth", "AUDIO", "copy.wav"),
    "resynth, mels": ("resynth", "AUDIO", "copy.wav", "--model", "vocos-mel-24khz-small"),
}


def run(bench: Bench) -> Section:
    longest = 2 if bench.settings.quick else LONGEST
    rng = np.random.default_rng(0)
    options = ["--threads", str(bench.settings.threads), "--force"]
    rows: dict[str, Row] = {}
    short: dict[str, float] = {}
    for minutes in (SHORTEST, longest):
        names = {"TOKENS": f"{minutes}.npy", "AUDIO": f"{minutes}.wav", "MODEL": str(bench.model("encodec", OURS))}
        np.save(bench.folder / names["TOKENS"], rng.integers(1024, size=(8, minutes * 4500)).astype(np.int16))
        for name, given in COMMANDS.items():
            command = [sys.executable, "-m", "vocos_onnx", *(names.get(word, word) for word in given), *options]
            seconds, peak = watched(command, bench.current.alone, bench.folder)
            if minutes == SHORTEST:
                short[name] = peak
            else:
                rows[name] = {
                    "1 min, MB": rounded(short[name]),
                    "1 h, MB": rounded(peak),
                    "ratio": rounded(peak / short[name]),
                    "1 h, seconds": rounded(seconds),
                }
    tables = {"hour": Table("peak memory of a command", rows), "decodes": _decodes(bench)}
    return Section("Long input, and many decodes", "Megabytes of 2**20 bytes.", tables)


def _decodes(bench: Bench) -> Table:
    rows: dict[str, Row] = {}
    for name, file in {
        "bundled codec": "vocos-codec-24khz",
        "official geometry, int8": bench.model("encodec", INT8),
    }.items():
        begun = time.perf_counter()
        first, last = bench.current.ask(
            "benchmarks.sections.long", file, bench.settings.threads, bench.settings.decodes
        )
        rows[name] = {
            "after 100, MB": rounded(first),
            "after all, MB": rounded(last),
            "ratio": rounded(last / first),
            "seconds": rounded(time.perf_counter() - begun),
        }
    return Table(f"peak memory of {bench.settings.decodes} decodes of 1 to 2,000 frames through one object", rows)


def main() -> None:
    """Prints the peak memory after a hundred decodes, and after all."""
    from vocos_onnx import VocosONNX

    file, threads, decodes = sys.argv[1:]
    vocos, rng = VocosONNX(file, threads=int(threads)), np.random.default_rng(0)
    first = 0.0
    for i in range(int(decodes)):
        vocos.decode(rng.integers(1024, size=(8, rng.integers(1, 2001))))
        if i == 99:
            first = _peak()
    print(json.dumps([first, _peak()]))


def _peak() -> float:
    """The process's peak memory, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    main()
