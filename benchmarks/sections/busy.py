"""Decoding while another process keeps one core busy."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.contenders import AGAINST, EAGER, PEERS, VERSIONS, started
from benchmarks.harness import BusyLoop, Case, Turn, measure
from benchmarks.results import Section, timed

SECONDS, CALLS = 10, 4


def run(bench: Bench) -> Section:
    case = Case(SECONDS)
    with started(bench, "encodec", {name: [case] for name in (*PEERS, *VERSIONS)}) as field:
        turns = [Turn(name, contender, case, CALLS) for name, contender in field.contenders.items()]
        beside = BusyLoop()
        try:
            measured = measure(turns, bench.settings.rounds, bench.settings.pause, beside)
        finally:
            beside.close()
    table = timed("10 s while another process computes", measured, EAGER, AGAINST, CALLS)
    text = "encodec geometry, while a second process, which is bound to no core, runs an endless loop."
    return Section("On a busy machine", text, {"encodec 10 s": table}, field.notes)
