"""Several inputs in one call; peers, which take no lists, decode them one by one."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.contenders import AGAINST, EAGER, PEERS, VERSIONS, started
from benchmarks.harness import Case, Turn, measure
from benchmarks.results import Section, timed

SECONDS, CALLS = 10, 4
CASES = {
    "items": ("ten items of 1 s", Case(SECONDS, "items")),
    "pieces": ("10 s in random pieces of 2 s on average", Case(SECONDS, "pieces")),
}


def run(bench: Bench) -> Section:
    tables = {}
    cases = [case for _, case in CASES.values()]
    with started(bench, "encodec", {name: cases for name in (*PEERS, *VERSIONS)}) as field:
        for name, (title, case) in CASES.items():
            turns = [Turn(name, contender, case, CALLS) for name, contender in field.contenders.items()]
            measured = measure(turns, bench.settings.rounds, bench.settings.pause)
            tables[name] = timed(title, measured, EAGER, AGAINST, CALLS)
    text = "encodec geometry. vocos-onnx and 0.4.0 take the list in one call, the peers one item after another."
    return Section("Lists", text, tables, field.notes)
