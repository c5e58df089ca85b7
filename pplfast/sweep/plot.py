"""The chart of a sweep: every seed, mean and standard error of each point, by the CAMs and by the last of the chain."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pplfast.charts import COLOURS, INK, new_figure, save
from pplfast.sweep.names import title
from pplfast.sweep.table import in_full

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(value: dict[str, Any], path: Path) -> None:
    """value: of sweep.json. The suffix of `path` says the format; the file is replaced as a whole."""
    with tempfile.TemporaryDirectory(prefix=".sweep-", dir=path.parent) as hidden:
        os.replace(save(chart(value), Path(hidden, path.name)), path)


def chart(value: dict[str, Any]) -> "Figure":
    """value: of sweep.json."""
    points = value["points"]
    variants = list(dict.fromkeys(point["variant"] for point in points.values()))
    figures = in_full(value["figures"])
    figure, all_axes = new_figure([0.3 + 0.3 * len(points)] * len(figures))
    for axes, name in zip(all_axes, figures, strict=True):
        for place, point in enumerate(points.values()):
            found, colour = point["figures"].get(name), COLOURS[variants.index(point["variant"])]
            if found:
                seeds = [run[name]["miou"] for run in point["seeds"].values() if name in run]
                axes.plot(seeds, [place] * len(seeds), "o", color=colour, alpha=0.3, markersize=4)
                axes.errorbar(found["mean"], place, xerr=found["se"] or 0, fmt="D", color=colour, ecolor=INK, capsize=3)
        axes.set_yticks(range(len(points)), list(points), fontsize=9)
        axes.set_ylim(len(points) - 0.5, -0.5)
        axes.set_title(title(name), loc="left", fontsize=10)
        axes.set_xlabel("mIoU, %: single seeds, mean and its standard error")
    return figure
