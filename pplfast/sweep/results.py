"""What a sweep has so far, and its files: sweep.json, sweep.md, sweep.svg, each replaced as a whole."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pplfast.files import read_json, write_json, write_text
from pplfast.steps import VARIANTS
from pplfast.sweep.figures import Outcome, difference, gains, mious, names, of_point, spread
from pplfast.sweep.names import FIRST, SECOND, SIZES
from pplfast.sweep.plot import draw
from pplfast.sweep.points import Point
from pplfast.sweep.table import shown, text


@dataclass
class Results:
    """points, seeds: all that are wanted. against: the name of the point that the others are compared with.
    about: the part of sweep.json that says what was asked for."""

    out: Path
    points: Sequence[Point]
    seeds: Sequence[int]
    against: str
    about: dict[str, Any]
    outcomes: dict[str, dict[int, Outcome]] = field(default_factory=lambda: defaultdict(dict))
    failed: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))

    def __post_init__(self) -> None:
        path = self.out / "sweep.json"
        self._before = read_json(path).get("wall_seconds", 0.0) if path.is_file() else 0.0
        self._start = time.monotonic()

    @property
    def ended(self) -> int:
        """How many runs are done or have failed."""
        return sum(map(len, self.outcomes.values())) + sum(map(len, self.failed.values()))

    def write(self) -> dict[str, Any]:
        """All three files; what sweep.json holds."""
        value = self.to_dict()
        write_json(self.out / "sweep.json", value)
        write_text(self.out / "sweep.md", text(value))
        if value["figures"]:
            draw(value, self.out / "sweep.svg")
        return value

    def to_dict(self) -> dict[str, Any]:
        """mIoU and IoU in percent, times in seconds, over all calls of the command."""
        done = [one for runs in self.outcomes.values() for one in runs.values()]
        figures = names(self.outcomes)
        chosen = self._chosen(figures)
        return {
            **self.about,
            "seeds": list(self.seeds),
            "runs": {
                "wanted": len(self.points) * len(self.seeds),
                "done": len(done),
                "failed": sum(map(len, self.failed.values())),
            },
            "against": self.against,
            "figures": figures,
            "chosen": chosen,
            "where": self._where(figures, chosen),
            "gains": {point.name: gains(self.outcomes[point.name], shown(figures)) for point in self.points},
            "points": {point.name: self._point(point, figures) for point in self.points},
            "seconds": round(sum(one.seconds for one in done), 1),
            "wall_seconds": round(self._before + time.monotonic() - self._start, 1),
            **(done[-1].machine if done else {}),
        }

    def _point(self, point: Point, figures: Sequence[str]) -> dict[str, Any]:
        runs, reference = self.outcomes[point.name], self.outcomes[self.against]
        ended = {
            seed: {
                "seconds": one.seconds,
                **{name: {"miou": figure.miou, "classes": figure.classes} for name, figure in one.figures.items()},
            }
            for seed, one in sorted(runs.items())
        }
        return {
            "variant": point.variant,
            "settings": list(point.settings),
            "figures": {name: found for name in figures if (found := of_point(runs, reference, name))},
            "seeds": {str(seed): run for seed, run in ended.items()},
            "failed": {str(seed): message for seed, message in sorted(self.failed[point.name].items())},
        }

    def _chosen(self, figures: Sequence[str]) -> dict[str, Any] | None:
        """Of each variant the point that is best by the first part, and what it has on the second; None without parts.

        By the last figure of the chain; among the points that have the most seeds.
        """
        split = [name for name in figures if name.endswith(FIRST)]
        if not split:
            return None
        by = split[-1]
        reported = by.removesuffix(FIRST) + SECOND
        best = {variant: name for variant in VARIANTS if (name := self._best(variant, by))}
        own = next(point.variant for point in self.points if point.name == self.against)
        reference = mious(self.outcomes[best.get(own, self.against)], reported)
        values = {variant: mious(self.outcomes[name], reported) for variant, name in best.items()}
        return {
            "by": by,
            "reported": reported,
            "against": own,
            "variants": {
                variant: {
                    "point": best[variant],
                    **spread(found),
                    "difference": difference(found, reference),
                }
                for variant, found in values.items()
            },
        }

    def _where(self, figures: Sequence[str], chosen: dict[str, Any] | None) -> dict[str, Any]:
        """Of each reported figure that has thirds by size, IoU by class and mIoU by size, and their differences; by
        point and row. The points are those that were chosen, else all."""
        best = {variant: found["point"] for variant, found in chosen["variants"].items()} if chosen else {}
        points = list(best.values()) or [point.name for point in self.points]
        against = best.get(chosen["against"], self.against) if chosen else self.against
        return {
            figure: {"against": against, "points": {name: self._by_part(name, against, figure) for name in points}}
            for figure in shown(figures)
            if _third(figure, SIZES[0]) in figures
        }

    def _by_part(self, point: str, against: str, figure: str) -> dict[str, Any]:
        """Spread and difference of each class, and of each third by size."""
        outcomes, reference = self.outcomes[point], self.outcomes[against]
        whole = of_point(outcomes, reference, figure)
        rows: dict[str, Any] = dict(whole["classes"]) if whole else {}
        for suffix in SIZES:
            values = mious(outcomes, _third(figure, suffix))
            if values:
                gain = difference(values, mious(reference, _third(figure, suffix)))
                rows[f"{suffix[1:]} objects"] = {**spread(values), "difference": gain}
        return rows

    def _best(self, variant: str, by: str) -> str | None:
        found = {point.name: mious(self.outcomes[point.name], by) for point in self.points if point.variant == variant}
        most = max(map(len, found.values()), default=0)
        means = {name: spread(values)["mean"] for name, values in found.items() if values and len(values) == most}
        return max(means, key=lambda name: means[name]) if means else None


def _third(figure: str, suffix: str) -> str:
    """The name of a reported figure's third by size."""
    return figure.removesuffix(SECOND) + suffix
