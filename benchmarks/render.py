"""Renders results.json as RESULTS.md and RESULTS.png: python -m benchmarks.render [FOLDER]"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.contenders import GEOMETRIES
from benchmarks.figures import goals
from benchmarks.results import Machine, Results, Row, Section, Spread, Table, load, shown
from benchmarks.sections.decode import TITLES

FOLDER = Path(__file__).resolve().parent
PLOTTED = "10 s"


def render(folder: Path) -> None:
    results = load(folder / "results.json")
    if not results:
        raise SystemExit(f"there is no results.json in {folder}: python -m benchmarks.run writes it")
    plotted = plot(results, folder / "RESULTS.png")
    (folder / "RESULTS.md").write_text("\n".join(page(results, plotted)), encoding="utf-8")
    print(f"wrote {folder / 'RESULTS.md'}")


def page(results: Results, plotted: bool) -> list[str]:
    machines = [result.machine for result in results.values()]
    most = max(machines, key=machines.count)
    lines = [
        "# Results",
        "",
        "Rendered from results.json, which `python -m benchmarks.run --clips CLIPS` writes; not by hand.",
        "",
        *_machine(most),
        "- ratio: seconds of the reference / own seconds for as much audio, by round, so that more is faster",
        "- a figure with two others behind it is a median, with the least and the most of all rounds",
        "",
        "## The figures to reach",
        "",
        "| | wanted | measured | reached |",
        "|---|---|---|---|",
        *(goal.line(results) for goal in goals()),
        "",
    ]
    if plotted:
        lines += [f"![ratios at {PLOTTED}](RESULTS.png)", ""]
    for result in results.values():
        lines += _section(result.section, None if result.machine == most else result.machine)
    return lines


def table_lines(table: Table) -> list[str]:
    columns = list(dict.fromkeys(column for row in table.rows.values() for column in row))
    return [
        f"| | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
        *(f"| {name} | {' | '.join(_cell(row, column) for column in columns)} |" for name, row in table.rows.items()),
    ]


def _machine(machine: Machine) -> list[str]:
    versions = ", ".join(f"{package} {version}" for package, version in machine.versions.items())
    return [
        f"- {machine.processor}, {machine.cores} cores; {machine.threads} threads for each contender",
        f"- {versions}, commit {machine.commit}",
    ]


def _section(section: Section, elsewhere: Machine | None) -> list[str]:
    lines = [f"## {section.title}", "", section.text, ""]
    if elsewhere:
        lines += ["Not measured with the others, but:", "", *_machine(elsewhere), ""]
    if section.notes:
        lines += [*(f"- {name}: {note}" for name, note in section.notes.items()), ""]
    for table in section.tables.values():
        lines += [f"{table.title}{_rounds(table)}:", "", *table_lines(table), ""]
    return lines


def _rounds(table: Table) -> str:
    if table.rounds == 1:
        return ""
    calls = f" of {table.calls} calls" if table.calls > 1 else ""
    dropped = f", {table.dropped} more dropped" if table.dropped else ""
    return f"; {table.rounds} rounds{calls}{dropped}{', DISTURBED by other programs' if table.disturbed else ''}"


def _cell(row: Row, column: str) -> str:
    return shown(row[column]) if column in row else ""


def plot(results: Results, path: Path) -> bool:
    """Writes the picture if its figures have been measured. Returns whether it did."""
    tables = {geometry: f"{geometry} {PLOTTED}" for geometry in GEOMETRIES}
    if "decode" not in results or not set(tables.values()) <= results["decode"].section.tables.keys():
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (geometry, key) in zip(axes, tables.items(), strict=True):
        rows = results["decode"].section.tables[key].rows
        names = list(rows)[::-1]
        ratios = [ratio.median for name in names if isinstance(ratio := rows[name]["ratio"], Spread)]
        colours = [
            "tab:orange" if name.startswith("vocos-onnx") else "tab:olive" if name.startswith("0.4.0") else "tab:gray"
            for name in names
        ]
        axis.barh(names, ratios, color=colours)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_title(f"{TITLES[geometry]}, {PLOTTED}")
        axis.set_xlabel("times as fast as torch eager")
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return True


if __name__ == "__main__":
    render(Path(sys.argv[1]) if sys.argv[1:] else FOLDER)
