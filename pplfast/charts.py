"""What the charts share: colours, figures of stacked axes, horizontal bars, files that come out the same each time."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito: told apart by colour-blind readers, too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK = "#444444"
WIDTH = 6.0  # inches of the axes themselves; labels and legends lie outside, and the saved picture grows by them
GAP = 0.95  # a label, and a title of two lines


def new_figure(heights: Sequence[float], gap: float = GAP) -> "tuple[Figure, list[Axes]]":
    """Axes one below the other, of these heights in inches; gap: inches between them, for labels and titles."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    total = sum(heights) + gap * len(heights)
    figure, all_axes, top = pyplot.figure(figsize=(WIDTH, total)), [], total
    for height in heights:
        top -= height + gap
        all_axes.append(figure.add_axes((0, (top + gap / 2) / total, 1, height / total)))
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, all_axes


def bars(
    axes: "Axes",
    labels: Sequence[str],
    values: Sequence[float],
    figures: Sequence[str],
    errors: Sequence[tuple[float, float]] | None = None,
) -> None:
    """Horizontal bars, the first at the top, each with its figure behind it. errors: below and above each value."""
    places = range(len(labels))
    spread = None if errors is None else [[low for low, _ in errors], [high for _, high in errors]]
    axes.barh(places, values, xerr=spread, color=COLOURS[0], ecolor=INK, height=0.6)
    for place, text in enumerate(figures):
        end = values[place] + (errors[place][1] if errors else 0)
        axes.annotate(text, (end, place), (4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(places, labels, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.12)  # room for the longest bar's figure
    axes.grid(visible=False, axis="y")


def machine(results: dict[str, Any]) -> str:
    """Hardware, date and commit of a measurement, one line."""
    hardware = results["hardware"]
    name = hardware.get("gpu") or f"{hardware['cpu']}, {hardware['threads']} threads"
    flags = "" if hardware.get("gpu") else f", {' '.join(hardware.get('cpu_flags', []))}"
    return f"{name}{flags.rstrip(', ')}, {results['date'][:10]}, {results['commit'][:12]}"


def save(figure: "Figure", path: Path) -> Path:
    """As the path's suffix says. An SVG keeps its text as text, and the same figure gives the same bytes."""
    import matplotlib
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "pplfast"}):
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=110, bbox_inches="tight", facecolor="white", metadata=metadata)
    pyplot.close(figure)
    return path
