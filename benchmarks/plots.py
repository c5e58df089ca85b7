"""Bar charts of a results file: how many times as fast, and on a GPU what share of the ceiling."""

from pathlib import Path
from typing import Any

BAR_INCHES, WIDTH_INCHES = 0.3, 10


def plot(results: dict[str, Any], path: Path) -> list[Path]:
    """PNG files beside `path`; returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    written = []
    ratios = [row for row in results["ratios"] if row["higher_is_better"]]
    if ratios:
        labels = [f"{row['bench']} {row['case']}\n{row['numerator']} / {row['denominator']}" for row in ratios]
        spreads = [row["ratio"] for row in ratios]
        written.append(
            _bars(
                path.with_suffix(".speedup.png"),
                labels,
                [s["median"] for s in spreads],
                [(s["median"] - s["q20"], s["q80"] - s["median"]) for s in spreads],
                [row["goal"] for row in ratios],
                "times as fast",
                1.0,
                results,
            )
        )
    rows = [row for row in results["rows"] if row.get("share_of_ceiling") and row["contestant"].startswith("pplfast")]
    if rows and results["device"] == "cuda":
        labels = [f"{row['bench']} {row['case']}\n{row['contestant']}" for row in rows]
        written.append(
            _bars(
                path.with_suffix(".ceiling.png"),
                labels,
                [row["share_of_ceiling"] for row in rows],
                [(0.0, 0.0)] * len(rows),
                [None] * len(rows),
                "share of the measured ceiling",
                1.0,
                results,
            )
        )
    return written


def _bars(
    path: Path,
    labels: list[str],
    values: list[float],
    errors: list[tuple[float, float]],
    goals: list[float | None],
    unit: str,
    line: float,
    results: dict[str, Any],
) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(WIDTH_INCHES, 1.5 + 2 * BAR_INCHES * len(labels)))
    positions = range(len(labels))
    axes.barh(positions, values, xerr=list(zip(*errors)), color="#4477aa", ecolor="#223355", height=0.6)
    for position, (value, goal) in enumerate(zip(values, goals)):
        axes.text(value, position, f" {value:.2f}", va="bottom")
        if goal is not None:
            axes.plot([goal, goal], [position - 0.4, position + 0.4], color="#cc3311")
    axes.margins(x=0.1)  # room for the longest bar's figure
    axes.axvline(line, color="grey", linewidth=0.8)
    axes.set_yticks(positions, labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel(f"{unit} (median, 20/80 quantiles; red: goal)" if any(goals) else unit)
    hardware = results["hardware"]
    machine = hardware.get("gpu") or f"{hardware['cpu']}, {hardware['threads']} threads"
    left_out = [f"{row['bench']}: {row['what']}" for row in results["skipped"]]
    title = f"{machine}, {results['date'][:10]}, {results['commit']}"
    axes.set_title("\n".join([title, *(f"left out: {text}" for text in dict.fromkeys(left_out))]), fontsize=9)
    figure.savefig(path, dpi=100, bbox_inches="tight")
    pyplot.close(figure)
    return path
