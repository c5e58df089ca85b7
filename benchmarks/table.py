"""Tables of measured ratios, from the results files: `python -m pplfast.benchmarks.table [--write FILE]`.

The page docs/performance.md holds them between two markers.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pplfast.benchmarks.results import SCHEMA, format_seconds, format_share
from pplfast.errors import UserError
from pplfast.files import write_text

RESULTS = Path(__file__).resolve().parent / "results"
PLOTS = Path(__file__).resolve().parent.parent / "docs" / "plots"
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
DIRTY = "-dirty"  # as git describe says it
CUT = " after "  # in the name of a training case, before the position
BENCHES = ("kernels", "train", "loader", "cam", "label", "crf", "walk")


def load(folder: Path) -> list[dict[str, Any]]:
    """Measured results, newest first."""
    values = [(path.name, json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("*.json"))]
    measured = [
        value | {"file": name} for name, value in values if value.get("schema") == SCHEMA and not value["quick"]
    ]
    return sorted(measured, key=lambda value: value["date"], reverse=True)


def table(folder: Path = RESULTS) -> str:
    """Markdown; with the charts in docs/plots of files that have one."""
    measured, lines = load(folder), []
    for device, title in (("cuda", "On a GPU"), ("cpu", "On a CPU")):
        runs = _newest([run for run in measured if run["device"] == device])
        lines += [f"## {title}", ""]
        for run, benches in runs:
            for number, bench in enumerate(benches):
                lines += list(_bench_lines(run, bench))
                lines += [] if number else chart(run["file"])
        missing = [name for name in BENCHES if not any(name in benches for _, benches in runs)]
        if missing:
            lines += [f"Not measured {title[0].lower()}{title[1:]}: {', '.join(missing)}.", ""]
    return "\n".join(lines).rstrip() + "\n"


def chart(file: str) -> list[str]:
    """A link to the chart of a results file, where `python -m pplfast.benchmarks.plots` has drawn one."""
    name = f"{Path(file).stem}.svg"
    return [f"![Chart of {file}](plots/{name})", ""] if (PLOTS / name).is_file() else []


def _newest(runs: list[dict[str, Any]]) -> list[tuple[dict[str, Any], list[str]]]:
    """Each benchmark from the newest file of each machine that has it."""
    taken: set[tuple[str, str]] = set()
    chosen = []
    for run in runs:
        machine = _machine(run)
        benches = [
            name for name in BENCHES if (machine, name) not in taken and any(r["bench"] == name for r in run["rows"])
        ]
        taken.update((machine, name) for name in benches)
        if benches:
            chosen.append((run, benches))
    return chosen


def _machine(run: dict[str, Any]) -> str:
    """A CPU by name and vector instructions: virtual machines give many models one name."""
    hardware = run["hardware"]
    return hardware.get("gpu") or f"{hardware['cpu']} ({', '.join(hardware['cpu_flags']) or 'no avx2'})"


def _commit(run: dict[str, Any]) -> str:
    commit = run["commit"].removesuffix(DIRTY)
    return f"commit {commit}" + (" with uncommitted changes" if run["commit"] != commit else "")


def _bench_lines(run: dict[str, Any], bench: str) -> Iterator[str]:
    hardware, versions = run["hardware"], run["versions"]
    threads = "" if hardware.get("gpu") else f", {hardware['threads']} thread{'s' * (hardware['threads'] != 1)}"
    yield f"### {bench}: {_machine(run)}"
    yield ""
    yield (
        f"{run['date'][:10]}{threads}, {_commit(run)}, torch {versions['torch']} "
        f"(`benchmarks/results/{run['file']}`{'' if run.get('complete', True) else '; cut off before its end'})"
    )
    yield ""
    gpu = run["device"] == "cuda"
    yield "| case | ratio of times | median (20/80) | goal |" + (" time | of the ceiling |" if gpu else "")
    yield "|---|---|---|---|" + ("---|---|" if gpu else "")
    rows = {(row["bench"], row["case"], row["contestant"]): row for row in run["rows"]}
    for group in _groups([row for row in run["ratios"] if row["bench"] == bench]):
        row, goal = group[0], group[0]["goal"]
        sign = "≥" if row["higher_is_better"] else "≤"
        case, figures = row["case"], _figures(row)
        if len(group) > 1:
            case = f"{row['case'].split(CUT)[0]}, {len(group)} positions"
            figures = _figures_over(group)
        text = (
            f"| {case} | {row['numerator']} / {row['denominator']} | {figures} | "
            f"{'' if goal is None else f'{sign}&nbsp;{goal:g}'} |"
        )
        if gpu:
            own = row["denominator"] if row["higher_is_better"] else row["numerator"]
            timed = rows[row["bench"], row["case"], own]
            share = format_share(timed) if "share_of_ceiling" in timed else ""
            text += f" {format_seconds(timed['seconds']['median'])} | {share} |"
        yield text
    yield ""
    if any(row.get("clock") == "cpu time" for row in run["rows"] if row["bench"] == bench):
        yield "Measured as CPU time of one thread, which other work on the machine does not stretch."
        yield ""
    skipped = [f"{row['what']} ({row['why']})" for row in run["skipped"] if row["bench"] == bench]
    if skipped:
        yield "Left out there: " + "; ".join(dict.fromkeys(skipped)) + "."
        yield ""


def _groups(ratios: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The same ratio at several stage positions together; all others alone."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in ratios:
        setting = row["case"].split(CUT)[0] if row["bench"] == "train" else row["case"]
        groups.setdefault((row["bench"], setting, row["numerator"], row["denominator"]), []).append(row)
    return list(groups.values())


def _figures(row: dict[str, Any]) -> str:
    spread = row["ratio"]
    return f"**{spread['median']:.2f}** ({spread['q20']:.2f} to {spread['q80']:.2f})"


def _figures_over(group: list[dict[str, Any]]) -> str:
    """The worst position, since a goal holds for every one, and the middle one."""
    medians = {row["case"].split(CUT)[1]: row["ratio"]["median"] for row in group}
    worst = (min if group[0]["higher_is_better"] else max)(medians, key=medians.__getitem__)
    middle = statistics.median(medians.values())
    return f"**{medians[worst]:.2f}** at the worst position (cut after {worst}), {middle:.2f} at the middle one"


def replace_between_markers(text: str, content: str, path: str) -> str:
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f"{path}: needs one line '{BEGIN}' and, after it, one line '{END}'")
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n\n{content}\n{END}{rest.split(END)[1]}"


def write_between_markers(content: str, path: Path | None) -> None:
    """Without a path: to standard output."""
    if path is None:
        print(content, end="")
    elif not path.is_file():
        raise UserError(f"{path}: no such file; make it, with one line '{BEGIN}' and, after it, one line '{END}'")
    else:
        write_text(path, replace_between_markers(path.read_text("utf-8"), content, str(path)))


def write_tables(name: str, about: str | None, make: Callable[[Path], str], arguments: list[str] | None) -> int:
    """The command line of a module that makes tables of the results files; returns its exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m pplfast.benchmarks.{name}", description=about)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="put the tables between the two markers of this file"
    )
    args = parser.parse_args(arguments)
    try:
        write_between_markers(make(args.results), args.write)
    except UserError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2
    return 0


def main(arguments: list[str] | None = None) -> int:
    return write_tables("table", __doc__, table, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
