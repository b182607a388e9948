"""How many live streams are served in time.

    python -m benchmarks.sections.realtime WAY FILE STREAMS SECONDS THREADS

pushes chunks into so many streams, from a thread each, as they would come in, and prints the latencies.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import Bench
from benchmarks.contenders import BANDWIDTH_ID, CHUNK, CODEBOOKS, INT8, OLD, OLD_INT8, OURS
from benchmarks.results import Row, Section, Table, rounded

PERIOD = CHUNK / 75  # seconds, from one chunk of a stream to the next
STREAMS = (1, 32, 64, 128, 192, 256, 320, 384)
SECONDS = 6.0
SERVED = "served"
WAYS = ("Stream", "StreamPool")


def run(bench: Bench) -> Section:
    quick = bench.settings.quick
    seconds, counts = (1.5, STREAMS[:3]) if quick else (SECONDS, STREAMS)
    served, latencies, notes = dict[str, Row](), dict[str, Row](), dict[str, str]()
    for name, way in ((OLD, "Stream"), (OLD_INT8, "Stream"), *((n, w) for n in (OURS, INT8) for w in WAYS)):
        label, file = f"{name}, {way}", bench.model("encodec", name)
        try:
            for streams in counts:
                given = (way, file, streams, seconds, bench.settings.threads)
                for _ in range(2):
                    answer: Row = bench.version(name).ask("benchmarks.sections.realtime", *given)
                    if answer["held"]:
                        break
                latencies[f"{label}, {streams}"] = answer
                if not answer["held"]:
                    break
                served[label] = {"streams held": streams}
        except RuntimeError as error:
            notes[label] = f"absent ({error})"
            continue
        print(f"- {label}: {served.get(label)}", flush=True)
    tables = {SERVED: Table("streams held", served), "latency": Table("latencies", latencies)}
    text = (
        f"encodec geometry. Each stream gets {CHUNK} frames every {1e3 * PERIOD:.0f} ms for {seconds:g} s, the streams "
        "evenly apart, from a thread for each. The latency runs from when a chunk is due until its audio is there. So "
        "many streams are held if its 99th percentile stays below the time between two chunks, over all but the first "
        "second and in the last one too, so that no backlog grows. The count goes up "
        f"({', '.join(map(str, counts))}) until one is not held in two tries."
    )
    return Section("Streams in real time", text, tables, notes)


def drive(opened: Callable[[], Any], streams: int, seconds: float) -> Row:
    """Push into so many streams for some seconds."""
    chunks = round(seconds / PERIOD)
    tokens = np.random.default_rng(0).integers(1024, size=(CODEBOOKS, CHUNK * chunks))
    latencies = np.full((streams, chunks), np.inf)
    ready = threading.Barrier(streams + 1)
    begin = 0.0

    def push(place: int) -> None:
        stream = opened()
        ready.wait()
        ready.wait()
        for i in range(chunks):
            due = begin + (i + place / streams) * PERIOD
            time.sleep(max(0.0, due - time.perf_counter()))
            stream.push(tokens[:, CHUNK * i : CHUNK * (i + 1)])
            latencies[place, i] = time.perf_counter() - due

    threads = [threading.Thread(target=push, args=(place,), daemon=True) for place in range(streams)]
    for thread in threads:
        thread.start()
    ready.wait()
    begin, cpu = time.perf_counter() + 0.05, time.process_time()
    ready.wait()
    for thread in threads:
        thread.join()
    if not np.isfinite(latencies).all():
        raise RuntimeError(f"{np.isinf(latencies).any(axis=1).sum()} of {streams} streams failed")
    cores = (time.process_time() - cpu) / (time.perf_counter() - begin)
    second = round(1 / PERIOD)
    settled, last = latencies[:, min(second, chunks // 2) :], latencies[:, -second:]
    worst = max(float(np.quantile(part, 0.99)) for part in (settled, last))
    return {
        "held": worst < PERIOD,
        "first ms": rounded(1e3 * statistics.median(latencies[:, 0].tolist())),
        "median ms": rounded(1e3 * float(np.median(settled))),
        "99 % ms": rounded(1e3 * worst),
        "cores": rounded(cores),
    }


def main() -> None:
    from vocos_onnx import VocosONNX

    way, file, streams, seconds, threads = sys.argv[1:]
    model: Any = VocosONNX(Path(file), threads=int(threads), providers=["CPUExecutionProvider"])
    if way == "StreamPool" and not hasattr(model, "stream_pool"):
        raise NotImplementedError("VocosONNX has no stream_pool")
    pool = model.stream_pool(max_streams=int(streams), max_wait=0.005) if way == "StreamPool" else nullcontext()
    with pool as opened:
        source = model.stream if opened is None else opened.open
        result = drive(lambda: source(bandwidth_id=BANDWIDTH_ID), int(streams), float(seconds))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
