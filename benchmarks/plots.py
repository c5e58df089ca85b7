"""Charts of results files. `python -m pplfast.benchmarks.plots` draws every committed one into docs/plots/, as SVG."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pplfast.benchmarks import plots_runs
from pplfast.charts import COLOURS, GAP, INK, bars, machine, new_figure, save
from pplfast.errors import UserError
from pplfast.files import read_json
from pplfast.sweep.plot import chart as sweep_chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PLOTS = Path(__file__).resolve().parent / "results", ROOT / "docs" / "plots"
LINE = 13  # points that a line of a legend takes
CUT = " after "  # in the name of a training case, before the position

# Contestants in words. "Plain PyTorch" is the method written down straightforwardly, benchmarks/reference/.
NAMES = {
    "reference": "plain PyTorch, float32",
    "reference_tf32": "plain PyTorch, TF32 convolutions",
    "tuned": "plain PyTorch, tuned: bf16, channels_last",
    "single_files": "pplfast, from single files",
    "shards": "pplfast, from tar shards",
    "webdataset": "webdataset library, PIL",
    "pplfast": "pplfast, float32",
    "pplfast_bf16": "pplfast, bf16",
    "pplfast_first_epoch": "pplfast, first epoch",
    "pplfast_cached": "pplfast, files in memory",
    "compiled_default": "pplfast, --compile default",
    "compiled_reduce-overhead": "pplfast, --compile reduce-overhead",
    "pydensecrf": "pydensecrf",
    "device": "pplfast's CRF",
    "device_only": "pplfast's CRF, without transfers",
    "plain_device_only": "its definition in plain PyTorch, without transfers",
    "dense": "dense transition matrix",
}
TITLES = {
    "kernels": "Kernels",
    "train": "Training step",
    "loader": "Loading training images",
    "cam": "Class activation maps",
    "label": "From image files to labels",
    "crf": "Dense CRF",
    "walk": "Random walk",
}


def plot(results: dict[str, Any], path: Path) -> list[Path]:
    """PNG files beside `path`: how many times as fast, and on a GPU what share of the ceiling; returns their paths."""
    written = []
    if any(row["higher_is_better"] for row in results["ratios"]):
        written.append(save(speedups(results), path.with_suffix(".speedup.png")))
    if results["device"] == "cuda" and _below_ceiling(results):
        written.append(save(ceilings(results), path.with_suffix(".ceiling.png")))
    return written


def draw(value: dict[str, Any]) -> "Figure":
    """The chart of one results file, whatever its kind. ValueError for a kind that has none."""
    if value.get("scaling"):
        return plots_runs.measured_scaling(value)
    if value.get("ratios"):
        return speedups(value)
    if value.get("kind") == "computed":
        return plots_runs.predicted_scaling(value)
    if value.get("kind") in ("demo", "run"):
        return plots_runs.miou(value)
    if value.get("kind") == "sweep":
        return sweep_chart(value)
    if "kills" in value:
        return plots_runs.kills(value)
    raise ValueError(f"no chart for a file with {', '.join(list(value)[:5])}")


def contestant(name: str, results: dict[str, Any]) -> str:
    """In words."""
    text = NAMES.get(name, name.replace("_", " "))
    return f"{text}, torch.compile" if name == "tuned" and _compiled(results) else text


def speedups(results: dict[str, Any]) -> "Figure":
    """One chart per benchmark, one below the other: times as fast, or the two times where there is one ratio alone."""
    ratios = [row for row in results["ratios"] if row["higher_is_better"]]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in ratios:
        groups.setdefault((row["bench"], _within(row)), []).append(row)
    heights = [_height(rows) for rows in groups.values()]
    figure, all_axes = new_figure(heights, 1.4 if any(map(_positions, groups.values())) else GAP)
    for axes, rows in zip(all_axes, groups.values(), strict=True):
        if _positions(rows):
            _by_position(axes, rows, results)
        elif len(rows) == 1:
            _two_times(axes, rows[0], results)
        else:
            _ratio_bars(axes, rows, results)
    left_out = dict.fromkeys(f"{row['bench']}: {row['what']} ({row['why']})" for row in results["skipped"])
    notes = [machine(results), *(f"left out: {text}" for text in left_out)]
    all_axes[-1].annotate(
        "\n".join(notes), (0, 0), (0, -48), "axes fraction", "offset points", va="top", fontsize=8, color=INK
    )
    return figure


def _within(row: dict[str, Any]) -> str:
    """What the cases of one chart have in common: the network of a training, sizes and dtype of kernels."""
    case: str = row["case"]
    if row["bench"] == "train":
        return case.partition(CUT)[0]
    return " ".join(case.split(" ")[-5:]) if row["bench"] == "kernels" else ""


def ceilings(results: dict[str, Any]) -> "Figure":
    """Share of what the device's measured bandwidth and arithmetic allow, one chart per benchmark."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in _below_ceiling(results):
        groups.setdefault(row["bench"], []).append(row)
    figure, all_axes = new_figure([0.2 + 0.32 * len(rows) for rows in groups.values()])
    for axes, (bench, rows) in zip(all_axes, groups.items(), strict=True):
        common, own = shared([row["case"] for row in rows])
        labels = [_join(part, contestant(row["contestant"], results)) for part, row in zip(own, rows, strict=True)]
        values = [100 * row["share_of_ceiling"] for row in rows]
        bars(axes, labels, values, [f"{value:.0f} %" for value in values])
        axes.set_xlim(0, 112)
        axes.set_title(_join(TITLES.get(bench, bench), common), loc="left", fontsize=10)
        axes.set_xlabel("share of the measured ceiling, %")
    all_axes[-1].annotate(machine(results), (0, 0), (0, -48), "axes fraction", "offset points", va="top", fontsize=8)
    return figure


def shared(cases: Sequence[str]) -> tuple[str, list[str]]:
    """What all cases have in common, and what is left of each: whole parts between commas, then words at the end."""
    parts = [case.split(", ") for case in cases]
    first = _common(parts)
    last = _common([list(reversed(part[first:])) for part in parts])
    own = [", ".join(part[first : len(part) - last]) for part in parts]
    common = parts[0][:first] + (parts[0][-last:] if last else [])
    words = [text.split(" ") for text in own]
    tail = _common([list(reversed(part)) for part in words])
    if tail and words[0] != [""]:
        common = [*common[:first], " ".join(words[0][-tail:]), *common[first:]]
        own = [" ".join(part[: len(part) - tail]) for part in words]
    return ", ".join(common), own


def _common(lists: Sequence[Sequence[str]]) -> int:
    count = 0
    while all(len(one) > count and one[count] == lists[0][count] for one in lists):
        count += 1
    return count


def _positions(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The blocks that patches are cut after, where that is what the cases differ in."""
    found = list(dict.fromkeys(row["case"].partition(CUT)[2] for row in rows if row["bench"] == "train"))
    return found if len(found) > 1 else []


def _height(rows: Sequence[dict[str, Any]]) -> float:
    return 2.7 if _positions(rows) else 0.2 + 0.38 * max(len(rows), 2)


def _pair(row: dict[str, Any], results: dict[str, Any], between: str = ", against ") -> str:
    ours, theirs = contestant(row["denominator"], results), contestant(row["numerator"], results)
    if row["bench"] == "kernels":  # both in the dtype that the case names
        ours, theirs = (text.removesuffix(", float32") for text in (ours, theirs))
    return f"{ours}{between}{theirs}"


def _by_position(axes: "Axes", rows: Sequence[dict[str, Any]], results: dict[str, Any]) -> None:
    positions = _positions(rows)
    pairs = list(dict.fromkeys((row["numerator"], row["denominator"]) for row in rows))
    for number, pair in enumerate(pairs):
        own = [row for row in rows if (row["numerator"], row["denominator"]) == pair]
        xs = [positions.index(row["case"].partition(CUT)[2]) + 0.12 * (number - (len(pairs) - 1) / 2) for row in own]
        spreads = [row["ratio"] for row in own]
        medians = [spread["median"] for spread in spreads]
        errors = [[s["median"] - s["q20"] for s in spreads], [s["q80"] - s["median"] for s in spreads]]
        label = _pair(own[0], results)
        axes.errorbar(xs, medians, errors, fmt="o-", color=COLOURS[number], markersize=5, linewidth=1, label=label)
        if own[0]["goal"] is not None:
            axes.axhline(own[0]["goal"], color=COLOURS[number], linestyle=":", linewidth=1.2)
    axes.axhline(1, color=INK, linewidth=0.8)
    axes.set_xticks(range(len(positions)), positions)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("patches are cut after")
    goal = "; dotted: goal" if any(row["goal"] is not None for row in rows) else ""
    axes.set_ylabel(f"times as fast\n(20/80 quantiles{goal})")
    title = _join(TITLES["train"], rows[0]["case"].partition(CUT)[0])
    axes.set_title(title, loc="left", fontsize=10, pad=8 + LINE * len(pairs))
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, borderaxespad=0.2)


def _ratio_bars(axes: "Axes", rows: Sequence[dict[str, Any]], results: dict[str, Any]) -> None:
    common, own = shared([row["case"] for row in rows])
    names = [_pair(row, results, "\nagainst ") for row in rows]
    title = _join(TITLES.get(rows[0]["bench"], rows[0]["bench"]), common)
    if len(set(names)) == 1:
        title, labels = f"{title}\n{_pair(rows[0], results)}", own
    else:
        labels = [_join(part, name) for part, name in zip(own, names, strict=True)]
        if len(set(names)) == len(names):
            labels = names  # what is compared says the rest
    spreads = [row["ratio"] for row in rows]
    errors = [(s["median"] - s["q20"], s["q80"] - s["median"]) for s in spreads]
    bars(axes, labels, [s["median"] for s in spreads], [f"{s['median']:.2f}" for s in spreads], errors)
    for place, row in enumerate(rows):
        if row["goal"] is not None:
            axes.plot([row["goal"]] * 2, [place - 0.4, place + 0.4], color=COLOURS[1], linewidth=2)
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_title(title, loc="left", fontsize=10)
    goal = "; red: goal" if any(row["goal"] is not None for row in rows) else ""
    axes.set_xlabel(f"times as fast: median, 20/80 quantiles{goal}")


def _two_times(axes: "Axes", ratio: dict[str, Any], results: dict[str, Any]) -> None:
    """One ratio makes no chart; the two times do."""
    names = (ratio["numerator"], ratio["denominator"])
    rows = {
        row["contestant"]: row
        for row in results["rows"]
        if (row["bench"], row["case"]) == (ratio["bench"], ratio["case"])
    }
    spreads = [rows[name]["seconds"] for name in names]
    medians = [spread["median"] for spread in spreads]
    unit, factor = ("s", 1.0) if min(medians) >= 1 else ("ms", 1e3)
    values = [factor * value for value in medians]
    errors = [(factor * (s["median"] - s["q20"]), factor * (s["q80"] - s["median"])) for s in spreads]
    bars(
        axes,
        [contestant(name, results) for name in names],
        values,
        [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values],
        errors,
    )
    if max(values) > 20 * min(values):
        axes.set_xscale("log")
        axes.set_xlim(min(values) / 3, max(values) * 4)
    goal = "" if ratio["goal"] is None else f", goal {ratio['goal']:g}"
    title = _join(TITLES.get(ratio["bench"], ratio["bench"]), ratio["case"])
    axes.set_title(f"{title}\n{ratio['ratio']['median']:,.4g} times as fast{goal}", loc="left", fontsize=10)
    axes.set_xlabel(f"{unit} per call: median, 20/80 quantiles")


def _below_ceiling(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in results["rows"] if row.get("share_of_ceiling") and row["contestant"].startswith("pplfast")]


def _compiled(results: dict[str, Any]) -> bool:
    return bool(results["compile"]) and not any("torch.compile" in row["what"] for row in results["skipped"])


def _join(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pplfast.benchmarks.plots", description=__doc__)
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="FILE.json", help="results (default: all committed ones)"
    )
    parser.add_argument("--out", type=Path, default=PLOTS, metavar="DIR", help="default: docs/plots")
    parser.add_argument("--format", choices=("svg", "png"), default="svg")
    args = parser.parse_args(arguments)
    try:
        for path in args.files or sorted(RESULTS.glob("*.json")):
            print(save(_figure_of(path), args.out / f"{path.stem}.{args.format}"))
    except UserError as error:
        print(f"plots: error: {error}", file=sys.stderr)
        return 2
    return 0


def _figure_of(path: Path) -> "Figure":
    try:
        return draw(read_json(path))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a results file that has a chart ({error})") from None


if __name__ == "__main__":
    sys.exit(main())
