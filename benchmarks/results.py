"""The results of the sections, and results.json, which stores them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import Measured


@dataclass(frozen=True)
class Spread:
    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        given = list(values)
        return cls(*(rounded(value) for value in (statistics.median(given), min(given), max(given))))


Value = float | str | Spread
Row = dict[str, Value]  # by column


@dataclass(frozen=True)
class Table:
    """Rows by name, usually a contender's.

    calls: timed calls per round, if the same for each row; their median is the round's figure.
    dropped: rounds disturbed by other programs; ``disturbed`` if all rounds were.
    """

    title: str
    rows: dict[str, Row]
    rounds: int = 1
    calls: int = 1
    dropped: int = 0
    disturbed: bool = False


@dataclass(frozen=True)
class Machine:
    processor: str
    cores: int
    threads: int
    commit: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Section:
    """A section. ``notes``: what each contender is and how far its audio is from upstream's, or why it is absent."""

    title: str
    text: str
    tables: dict[str, Table]
    notes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """A section, and the machine that it was measured on."""

    machine: Machine
    section: Section


Results = dict[str, Result]  # by section name


def timed(title: str, measured: Measured, reference: str, against: dict[str, str], calls: int) -> Table:
    """A table of times.

    Its columns: milliseconds; how many times as fast as the reference, and as the row's counterpart in ``against`` (a
    row name for each row name), for the same amount of audio, by round; how much faster than real time; and cores.
    """
    rows: dict[str, Row] = {}
    for name, times in measured.times.items():
        row: Row = {
            "ms": Spread.of(1e3 * value for value in times.seconds),
            "ratio": Spread.of(times.ratios(measured.times[reference])),
        }
        if against.get(name) in measured.times:
            row["to 0.4.0"] = Spread.of(times.ratios(measured.times[against[name]]))
        row["x real time"] = rounded(times.audio / statistics.median(times.seconds))
        row["cores"] = rounded(times.cores)
        rows[name] = row
    return Table(title, rows, measured.rounds, calls, measured.dropped, measured.disturbed)


def save(results: Results, path: Path, order: Iterable[str]) -> None:
    """Writes results.json, with its sections in this order."""
    ordered = {name: asdict(results[name]) for name in order if name in results}
    path.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load(path: Path) -> Results:
    """The results in a file; none if it does not exist."""
    if not path.exists():
        return {}
    return {
        name: Result(Machine(**given["machine"]), _section(given["section"]))
        for name, given in json.loads(path.read_text(encoding="utf-8")).items()
    }


def _section(given: dict[str, Any]) -> Section:
    tables = {key: _table(table) for key, table in given["tables"].items()}
    return Section(**{**given, "tables": tables})


def _table(given: dict[str, Any]) -> Table:
    rows = {
        name: {column: Spread(**value) if isinstance(value, dict) else value for column, value in row.items()}
        for name, row in given["rows"].items()
    }
    return Table(**{**given, "rows": rows})


def shown(value: Value) -> str:
    """A value as text; a spread with its minimum and maximum."""
    if isinstance(value, Spread):
        return f"{shown(value.median)} ({shown(value.least)} – {shown(value.most)})"
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 4
    return f"{value:.{digits}f}"


def rounded(value: float) -> float:
    """Rounds to four digits: more would only be noise in the file."""
    return float(f"{value:.4g}")
