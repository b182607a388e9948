"""One and many streams, pushed into as fast as they take it."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.contenders import CHUNK, EAGER, INT8, OLD, OLD_INT8, OURS, STREAMING_VOCOS, VERSIONS, started
from benchmarks.harness import Case, Turn, measure
from benchmarks.results import Section, Spread, timed

SECONDS, STREAMS = 10, (1, 8, 32, 128)


def run(bench: Bench) -> Section:
    settings = bench.settings
    seconds = 1 if settings.quick else SECONDS
    whole, chunks = Case(seconds), Case(seconds, "chunks")
    pools = [Case(seconds, "pool", streams) for streams in STREAMS]
    single = {EAGER: [whole], **{name: [whole, chunks] for name in VERSIONS}, STREAMING_VOCOS: [chunks]}
    many = {OURS: pools, INT8: pools}
    with started(bench, "encodec", single) as alone, started(bench, "encodec", many) as pooled:
        turns = [
            Turn(_row(name, case), field.contenders[name], case, 1)
            for field, wanted in ((alone, single), (pooled, many))
            for name, cases in wanted.items()
            if name in field.contenders
            for case in cases
        ]
        measured = measure(turns, max(2, settings.rounds // 2), settings.pause)
        notes = alone.notes | {f"{name}, StreamPool": pooled.notes[name] for name in many}
    title = f"{seconds} s in each stream, in chunks of {CHUNK} frames (107 ms); the others in one call"
    table = timed(title, measured, EAGER, {}, 1)
    for name, row in table.rows.items():
        offline = OLD_INT8 if name.startswith((INT8, OLD_INT8)) else OLD
        if name.startswith((OURS, INT8, OLD, OLD_INT8)) and offline in measured.times:
            row["cost"] = Spread.of(1 / ratio for ratio in measured.times[name].ratios(measured.times[offline]))
    text = (
        "encodec geometry. The cost is that of a second of audio, over that of 0.4.0 in the same precision, which "
        f"decodes {seconds} s in one call in the same rounds. Each stream of a pool is pushed into by a thread "
        "of its own, as fast as it takes it."
    )
    return Section("Streams", text, {"encodec": table}, notes)


def _row(name: str, case: Case) -> str:
    if case.cut == "whole" or name == STREAMING_VOCOS:
        return name
    return f"{name}, a Stream" if case.cut == "chunks" else f"{name}, StreamPool of {case.streams}"
