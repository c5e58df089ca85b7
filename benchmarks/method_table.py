"""What the method reaches, from the results files of runs: `python -m pplfast.benchmarks.method_table [--write FILE]`.

A run's file has kind "demo" or "run" and, for one variant or several, its mIoU in percent: of one seed at the top, of
several in `runs`, of another machine in `second_machine`. Mean and standard error are computed here. A file of kind
"sweep" is the sweep.json of `pplfast sweep`.
"""

import json
import math
import re
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pplfast.benchmarks.table import RESULTS, chart, write_tables
from pplfast.sweep.table import text as sweep_text

VARIANTS = {"plain": "plain", "ppl": "progressive", "explicit": "explicit"}
FIGURES = {
    "cam_miou": "CAMs",
    "label_miou": "labels after the CRF",
    "label_crf_miou": "labels after the CRF",
    "walk_label_miou": "labels after boundaries and random walk",
    "label_walk_miou": "labels after boundaries and random walk",
    "segmentation_miou": "segmentation network",
    "network_label_miou": "labels by the network",
}
COMPARED = ("cam_miou", "label_miou")  # of progressive and plain, seed by seed
ONLY = "ppl"  # the variant of a file whose runs name none
Runs = dict[str, dict[str, dict[str, float]]]  # seed -> variant -> figure -> mIoU


def load(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Names and contents of the results files of runs, newest first."""
    files = [(path.name, json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("*.json"))]
    runs = [(name, value) for name, value in files if value.get("kind") in ("demo", "run", "sweep")]
    return sorted(runs, key=lambda item: (item[1]["date"], item[0]), reverse=True)


def table(folder: Path = RESULTS) -> str:
    lines: list[str] = []
    for name, value in load(folder):
        lines += _sweep(name, value) if value["kind"] == "sweep" else _section(name, value)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def standard_error(values: list[float]) -> float:
    """Of the mean of two values or more, from the sample's standard deviation."""
    return statistics.stdev(values) / math.sqrt(len(values))


def _section(name: str, value: dict[str, Any]) -> Iterator[str]:
    data = _of_first_run(value, "data")
    yield f"## {value['recipe']}, {value['date']}"
    yield ""
    if data:
        val = data["val"]
        yield f"{data['train']['images']:,} training images, {val['scored']} scored."
    yield f"`benchmarks/results/{name}`, commit {value['commit']}. Command:"
    yield from ("", "```text", *_wrapped(value["command"]), "```", "")
    machines = [(_hardware(value), value["date"], _runs(value))]
    second = value.get("second_machine")
    if second:
        machines.append((second["hardware"], second["date"], _runs(second)))
    for hardware, date, runs in machines:
        if len(machines) > 1:
            yield from (f"### {hardware}, {date}", "")
        else:
            yield from (f"{hardware}.", "")
        yield from _figures(runs)
    yield from _gains([runs for _, _, runs in machines])
    yield from chart(name)


def _sweep(name: str, value: dict[str, Any]) -> Iterator[str]:
    yield f"## {value['recipe']}, {value['date'][:10]}"
    yield ""
    yield f"`benchmarks/results/{name}`, commit {value['commit']}. Command:"
    yield from ("", "```text", *_wrapped(value["command"]), "```", "")
    at_once = f"{value['at_once']} run{'s' * (value['at_once'] > 1)} at a time"
    yield f"{_hardware(value)}, {at_once}, {value['wall_seconds'] / 3600:.1f} hours."
    yield from ("", sweep_text(value).rstrip(), "")
    yield from chart(name)


def _runs(value: dict[str, Any]) -> Runs:
    if "runs" not in value:
        return {str(value["seed"]): {name: value[name] for name in VARIANTS if name in value}}
    found: Runs = {}
    for seed, run in value["runs"].items():
        variants = {name: run[name] for name in VARIANTS if name in run} or {ONLY: run}
        found[seed.removeprefix("seed")] = variants
    return found


def _figures(runs: Runs) -> Iterator[str]:
    seeds = list(runs)
    several = len(seeds) > 1
    heads = [*(f"seed {seed}" for seed in seeds), *(["mean", "standard error"] if several else [])]
    yield "| mIoU in percent | " + " | ".join(heads) + " |"
    yield "|---|" + "---|" * len(heads)
    for figure, text in FIGURES.items():
        for variant, title in VARIANTS.items():
            values = [runs[seed].get(variant, {}).get(figure) for seed in seeds]
            known = [value for value in values if value is not None]
            if not known:
                continue
            cells = ["" if value is None else f"{value:.1f}" for value in values]
            if several:
                error = f"{standard_error(known):.1f}" if len(known) > 1 else ""
                cells += [f"**{statistics.mean(known):.1f}**", error]
            yield f"| {text}, {title} | " + " | ".join(cells) + " |"
    yield ""


def _gains(machines: list[Runs]) -> Iterator[str]:
    """Progressive over plain, over all pairs of one seed on one machine."""
    for figure in COMPARED:
        pairs = [
            run["ppl"][figure] - run["plain"][figure] for runs in machines for run in runs.values() if _has(run, figure)
        ]
        if len(pairs) > 1:
            above = sum(pair > 0 for pair in pairs)
            yield (
                f"- {FIGURES[figure]}: progressive minus plain, over {len(pairs)} pairs of one seed on one machine: "
                f"**{statistics.mean(pairs):+.1f}** points, standard error {standard_error(pairs):.1f}, from "
                f"{min(pairs):+.1f} to {max(pairs):+.1f}; above 0 in {above} of {len(pairs)}."
            )
    yield ""


def _has(run: Mapping[str, Mapping[str, float]], figure: str) -> bool:
    return all(figure in run.get(variant, {}) for variant in ("plain", "ppl"))


def _hardware(value: dict[str, Any]) -> str:
    hardware = _of_first_run(value, "hardware")
    gpus = hardware.get("gpus", "none")
    return f"{hardware['cpu']}" + ("" if gpus == "none" else f", {gpus}")


def _of_first_run(value: dict[str, Any], key: str) -> Any:
    """Of the file, or where it says it for each run, of the first; None where it does not say it."""
    first: dict[str, Any] = next(iter(value.get("runs", {}).values()), {})
    return value.get(key) or first.get(key)


def _wrapped(command: str, width: int = 76) -> Iterator[str]:
    line = ""
    for part in command.replace(" --", "\n--").split("\n"):  # an option stays with its value
        if line and len(line) + 1 + len(part) > width:
            yield line + " \\"
            line = "   "
        line = f"{line} {part}" if line else part
    yield line


def main(arguments: list[str] | None = None) -> int:
    return write_tables("method_table", __doc__, table, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
