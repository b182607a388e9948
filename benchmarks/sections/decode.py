"""One input in one call."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.contenders import AGAINST, EAGER, GEOMETRIES, PEERS, VERSIONS, started
from benchmarks.harness import Case, Turn, measure
from benchmarks.results import Section, Table, timed

TITLES = {"encodec": "vocos-encodec-24khz, 6 kbps", "mel-center": "vocos-mel-24khz"}
LENGTHS = (1, 10, 60)  # seconds


def run(bench: Bench) -> Section:
    settings, tables, notes = bench.settings, dict[str, Table](), dict[str, str]()
    lengths = LENGTHS[:2] if settings.quick else LENGTHS
    for geometry in GEOMETRIES:
        cases = [Case(seconds) for seconds in lengths]
        with started(bench, geometry, {name: cases for name in (*PEERS, *VERSIONS)}) as field:
            notes |= {f"{name}, {geometry}": note for name, note in field.notes.items()}
            for seconds, case in zip(lengths, cases, strict=True):
                rounds = settings.rounds if seconds <= 20 else max(2, settings.rounds // 2)
                calls = 8 if seconds < 5 else 4 if seconds <= 20 else 1
                turns = [Turn(name, contender, case, calls) for name, contender in field.contenders.items()]
                measured = measure(turns, rounds, settings.pause)
                title = f"{TITLES[geometry]}: {seconds:g} s"
                tables[f"{geometry} {seconds:g} s"] = timed(title, measured, EAGER, AGAINST, calls)
    return Section("Decoding", "Tokens or mels of one input to audio, in one call.", tables, notes)
