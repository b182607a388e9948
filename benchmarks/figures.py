"""The goals, and the figures in results.json that correspond to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.contenders import FLOAT32_PEERS, GEOMETRIES, INT8, OURS, PEERS
from benchmarks.results import Results, Row, Spread, shown
from benchmarks.sections.long import COMMANDS
from benchmarks.sections.realtime import SERVED
from benchmarks.sections.start import ALL, LONG, SHORT, STREAMED

LENGTHS = (1, 10, 60)  # seconds
MEMORY = 124.0  # MB, plus a share of the model file
POOL, COST = "StreamPool of 32", "cost of a second, relative to 0.4.0 in one call"
Answer = tuple[str, bool]  # the measured figure, and whether it reaches the goal


@dataclass(frozen=True)
class Goal:
    """A goal. ``measure`` raises KeyError if something is missing in the results."""

    what: str
    wanted: str
    measure: Callable[[Results], Answer]

    def line(self, results: Results) -> str:
        try:
            measured, reached = self.measure(results)
        except KeyError:
            return f"| {self.what} | {self.wanted} | not measured | |"
        return f"| {self.what} | {self.wanted} | {measured} | {'yes' if reached else '**no**'} |"


def goals() -> list[Goal]:
    goals = [
        Goal(f"{what}: times as fast as 0.4.0", f"≥ {limit:g}", _at_least(limit, section, table, name, "to 0.4.0"))
        for limit, what, section, table, name in (
            (1.3, "10 s, encodec, int8", "decode", "encodec 10 s", INT8),
            (1.08, "10 s, encodec, float32", "decode", "encodec 10 s", OURS),
            (1.0, "1 s, encodec, int8", "decode", "encodec 1 s", INT8),
            (1.0, "1 s, encodec, float32", "decode", "encodec 1 s", OURS),
            (1.0, "1 s, mel, int8", "decode", "mel-center 1 s", INT8),
            (1.0, "1 s, mel, float32", "decode", "mel-center 1 s", OURS),
            (1.35, "ten items of 1 s as a list, int8", "lists", "items", INT8),
            (1.1, "ten items of 1 s as a list, float32", "lists", "items", OURS),
            (1.3, "10 s, int8, while another process keeps one core busy", "busy", "encodec 10 s", INT8),
        )
    ]
    goals += [
        Goal("10 s, encodec, int8: times as fast as the fastest peer of any precision", "≥ 1.25", _fastest_peer),
        Goal("1, 10 and 60 s, encodec and mel, float32: times as fast as the fastest float32 peer", "≥ 1", _float32),
        Goal("streams held in real time, int8", "≥ 250", _held),
    ]
    goals += [
        Goal(what, f"≤ {limit:g}", _at_most(limit, section, table, name, column))
        for limit, what, section, table, name, column in (
            (1.15, f"{OURS}, {POOL}: {COST}", "streams", "encodec", f"{OURS}, {POOL}", "cost"),
            (1.3, f"{INT8}, {POOL}: {COST}", "streams", "encodec", f"{INT8}, {POOL}", "cost"),
            (0.28, f"{OURS}: seconds from a cold start to 1 s of audio", "start", "start", OURS, "seconds"),
            (0.28, f"{INT8}: seconds from a cold start to 1 s of audio", "start", "start", INT8, "seconds"),
        )
    ]
    for name in (OURS, INT8):
        for use, share in {SHORT: 0.5, LONG: 0.5, STREAMED: 0.5, ALL: 1.5}.items():
            wanted = f"≤ {MEMORY:g} + {share:g} × the model file"
            goals.append(Goal(f"{name}, {use}: peak memory in MB", wanted, _memory(name, use, share)))
    for command in COMMANDS:
        what = f"{command}: peak memory of 1 h over that of 1 min"
        goals.append(Goal(what, "≤ 1.05", _at_most(1.05, "long", "hour", command, "ratio")))
    return goals


def _rows(results: Results, section: str, table: str) -> dict[str, Row]:
    return results[section].section.tables[table].rows


def _median(row: Row, column: str) -> float:
    value = row[column]
    if isinstance(value, Spread):
        return value.median
    assert isinstance(value, float)
    return value


def _at_least(limit: float, section: str, table: str, name: str, column: str) -> Callable[[Results], Answer]:
    def measure(results: Results) -> Answer:
        row = _rows(results, section, table)[name]
        return shown(row[column]), _median(row, column) >= limit

    return measure


def _at_most(limit: float, section: str, table: str, name: str, column: str) -> Callable[[Results], Answer]:
    def measure(results: Results) -> Answer:
        row = _rows(results, section, table)[name]
        return shown(row[column]), _median(row, column) <= limit

    return measure


def _ahead(rows: dict[str, Row], ours: str, peers: tuple[str, ...]) -> tuple[float, str]:
    """How many times as fast as the fastest peer, by the medians, and which peer that is."""
    fastest = min((name for name in peers if name in rows), key=lambda name: _median(rows[name], "ms"))
    return _median(rows[fastest], "ms") / _median(rows[ours], "ms"), fastest


def _fastest_peer(results: Results) -> Answer:
    ratio, fastest = _ahead(_rows(results, "decode", "encodec 10 s"), INT8, PEERS)
    return f"{shown(ratio)} ({fastest})", ratio >= 1.25


def _float32(results: Results) -> Answer:
    each = []
    for geometry in GEOMETRIES:
        for seconds in LENGTHS:
            ratio, fastest = _ahead(_rows(results, "decode", f"{geometry} {seconds} s"), OURS, FLOAT32_PEERS)
            each.append((ratio, f"{fastest}, {geometry}, {seconds} s"))
    ratio, where = min(each)
    return f"{shown(ratio)} or more ({where})", ratio >= 1


def _held(results: Results) -> Answer:
    served = _rows(results, "realtime", SERVED)[f"{INT8}, StreamPool"]["streams held"]
    assert isinstance(served, (int, float))
    return f"{served:g}", served >= 250


def _memory(name: str, use: str, share: float) -> Callable[[Results], Answer]:
    def measure(results: Results) -> Answer:
        row = _rows(results, "start", "memory")[name]
        peak, most = row[f"{use}, MB"], MEMORY + share * _median(row, "model file, MB")
        return f"{shown(peak)}, of {shown(most)}", _median(row, f"{use}, MB") <= most

    return measure
