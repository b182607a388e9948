"""Benchmarks for batches of a corpus: throughput, kills and restarts, resuming, memory. See docs/guides/corpora.md.

    python benchmarks/corpora.py throughput --items 2000    # one worker against all cores, in turns
    python benchmarks/corpora.py kills --items 10000        # kill -9 of the parent or a worker, three times at random
    python benchmarks/corpora.py ray --items 64000 --rounds 1 --local 0.25   # Ray, started here, and the local engine
    python benchmarks/corpora.py memory --items 1000000     # of the parent, with a manifest of that many rows

Items are 1 to 5 s of random tokens of the bundled codec at 3 kbps, decoded to WAV. OMP_NUM_THREADS and the like have no
effect, since each worker has one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vocos_onnx import VocosONNX, save_tokens
from vocos_onnx.batch import Manifest, Settings, Summary, run
from vocos_onnx.batch.journal import FileState, Row
from vocos_onnx.batch.manifest import Item
from vocos_onnx.model.cpus import available_cpus

CODEBOOKS, RATE = 4, 75  # at 3 kbps; frames per second


def write_items(folder: Path, count: int) -> None:
    vocos, rng = VocosONNX(), np.random.default_rng(0)
    folder.mkdir()
    for n in range(count):
        frames = int(rng.integers(RATE, 5 * RATE + 1))
        save_tokens(folder / f"{n:06d}.npz", rng.integers(1024, size=(CODEBOOKS, frames)), vocos)


def command(source: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "vocos_onnx", "batch", str(source), str(out), "--json", *options]


def once(source: Path, out: Path, *options: str) -> dict[str, Any]:
    """Runs the command once. Returns its summary, and the seconds that the whole process took."""
    start = time.monotonic()
    done = subprocess.run(command(source, out, *options), check=True, capture_output=True, text=True)
    summary: dict[str, Any] = json.loads(done.stdout)
    return {**summary, "process": time.monotonic() - start}


def throughput(folder: Path, items: int, rounds: int) -> None:
    cores = available_cpus()
    write_items(folder / "in", items)
    ratios = []
    for index in range(rounds):
        speeds = {}
        for workers in (1, cores) if index % 2 == 0 else (cores, 1):
            summary = once(folder / "in", folder / "out", "--workers", str(workers))
            speeds[workers] = 3600 * summary["hours"] / summary["process"]
            print(f"{workers} workers: {summary['process']:.1f} s, {speeds[workers]:.0f} x real time", flush=True)
            shutil.rmtree(folder / "out")
        ratios.append(speeds[cores] / speeds[1])
    print(f"{cores} workers against 1: {statistics.median(ratios):.2f} (of {', '.join(f'{r:.2f}' for r in ratios)})")


def ray(folder: Path, items: int, rounds: int, local: float) -> None:
    """Runs both engines in turn, on all cores, timed from the first row on; the time before that is the start.

    local: the share of the items for the local engine.
    """
    write_items(folder / "in", items)
    manifests = {"local": folder / "local.jsonl", "ray": folder / "ray.jsonl"}
    for engine, count in (("local", round(local * items)), ("ray", items)):
        rows = (json.dumps({"path": f"in/{n:06d}.npz"}) + "\n" for n in range(count))
        manifests[engine].write_text("".join(rows))
    ratios = []
    for index in range(rounds):
        speeds = {}
        for engine in ("local", "ray") if index % 2 == 0 else ("ray", "local"):
            marks: list[tuple[float, float]] = []

            def note(summary: Summary, marks: list[tuple[float, float]] = marks) -> None:
                marks.append((time.monotonic(), 3600 * summary.hours))

            run(manifests[engine], folder / "out", Settings.of("decode"), engine=engine, progress=note)
            ended = time.monotonic()
            (begun, _), (first, some), *_, (last, audio) = marks
            speeds[engine] = (audio - some) / (last - first)
            print(
                f"{engine}: start {first - begun:.1f} s, {last - first:.1f} s of work at {speeds[engine]:.1f} x real "
                f"time, end {ended - last:.1f} s",
                flush=True,
            )
            shutil.rmtree(folder / "out")
        ratios.append(speeds["ray"] / speeds["local"])
    print(f"ray against local: {statistics.median(ratios):.2f} (of {', '.join(f'{r:.2f}' for r in ratios)})")


def kills(folder: Path, items: int, seed: int) -> None:
    write_items(folder / "in", items)
    whole = once(folder / "in", folder / "whole")
    print(f"undisturbed: {whole['process']:.1f} s, {whole['done']} items", flush=True)
    expected = outputs(folder / "whole")
    shutil.rmtree(folder / "whole")
    rng, out = random.Random(seed), folder / "out"
    options: list[str] = []
    for number in range(3):
        process = subprocess.Popen(command(folder / "in", out, *options), stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(1, whole["process"] / 4))
        workers = workers_of(process.pid)
        victim = rng.choice(["parent", "worker"]) if workers else "parent"
        os.kill(process.pid if victim == "parent" else rng.choice(workers), signal.SIGKILL)
        print(f"kill {number + 1}: {victim}, after {lines(out)} lines of the journal", flush=True)
        if victim == "worker":  # the run continues, and is killed a while later
            time.sleep(rng.uniform(1, 5))
            process.kill()
        process.wait()
        options = ["--resume"]
    last = once(folder / "in", out, *options)
    print(f"the rest: {last['before']} items were done, {last['done']} are now, {last['failed']} failed")
    ids = [row["id"] for row in map(json.loads, (out / "journal.jsonl").read_text().splitlines()[1:])]
    print(f"bytes equal: {outputs(out) == expected}; items: {len(set(ids))}, rows in the journal: {len(ids)}")
    again = once(folder / "in", out, *options)
    print(f"resuming with {again['before']} done items: {again['process']:.2f} s, the whole command")


def outputs(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.glob("*.wav")}


def lines(out: Path) -> int:
    path = out / "journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def workers_of(process: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process and b"spawn_main" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def memory(folder: Path, items: int) -> None:
    """Measures the parent's memory: outputs are faked, so only its own work counts."""
    path = folder / "manifest.jsonl"
    with path.open("w") as file:
        for n in range(items):
            name = f"/data/corpora/some-corpus/speaker-{n % 2000:05d}/session-{n % 7}/utterance-{n:09d}.npz"
            file.write(json.dumps({"id": f"speaker-{n % 2000:05d}-utterance-{n:09d}", "path": name}) + "\n")
    state = FileState("ab" * 32, 1000, 1_795_699_842_281_778_877)

    def pretend(
        settings: Settings, out: Path, given: Iterable[Item], workers: int | None
    ) -> Generator[Row, None, None]:
        for item in given:
            yield Row(item.id, "", state, f"{item.id}.wav", state, 1.0)

    def report(what: str, start: float) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{what}: {time.monotonic() - start:.0f} s, peak of {peak:.0f} MB", flush=True)

    start = time.monotonic()
    settings = Settings.of("decode")
    report("settings", start)
    start = time.monotonic()
    manifest = Manifest(path)
    report(f"a manifest of {len(manifest):,} rows", start)
    start = time.monotonic()
    run(manifest, folder / "out", settings, engine=pretend)
    report("all items done", start)
    start = time.monotonic()
    run(manifest, folder / "out", settings, engine=pretend, resume=True)
    report("resumed, with all rows of the journal read, and all items looked at again", start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("throughput", "ray", "kills", "memory"))
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3, help="of throughput and ray")
    parser.add_argument("--local", type=float, default=1.0, help="of ray: the share of the items for the local engine")
    parser.add_argument("--seed", type=int, default=0, help="of kills")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.what == "throughput":
            throughput(folder, args.items, args.rounds)
        elif args.what == "ray":
            ray(folder, args.items, args.rounds, args.local)
        elif args.what == "kills":
            kills(folder, args.items, args.seed)
        else:
            memory(folder, args.items)


if __name__ == "__main__":
    main()
