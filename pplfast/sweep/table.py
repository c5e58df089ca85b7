"""The figures of a sweep as Markdown whose columns line up, for the terminal too."""

from collections.abc import Iterator, Sequence
from typing import Any

from pplfast.sweep.names import CAMS, FIRST, SECOND, SIZES, title

Rows = list[tuple[str, ...]]
WORDS = ("", "point", "variant", "best point", "step")  # heads of the columns that hold no numbers


def text(value: dict[str, Any]) -> str:
    """value: of sweep.json."""
    runs = value["runs"]
    failed = f", {runs['failed']} failed" if runs["failed"] else ""
    parts = [f"{runs['done']} of {runs['wanted']} runs done{failed}; {value['scored']}; mIoU in percent."]
    compared = f", differences from {value['against']}" if len(value["points"]) > 1 else ""
    for figure in in_full(value["figures"]):
        parts.append(f"{title(figure.removesuffix(SECOND))}{compared}:\n\n{_markdown(_rows(value, figure))}")
    if value["chosen"]:
        parts.append(_chosen(value["chosen"]))
    elif runs["done"]:
        parts.append(
            "The best of these means is too good: it is the best on the very images that it was chosen by. "
            "`--choose-on 0.5` chooses by one half of them and reports the other."
        )
    if steps := _step_rows(value):
        parts.append(
            f"What each step carries, run by run:\n\n{_markdown(steps)}\n\n"
            "Maps are scored at their best threshold. The segmentation network is not told what is in an image and is "
            "scored on the list of the test, so that the labels after it are compared with those before it."
        )
    for figure, found in value["where"].items():
        if figure not in in_full(value["figures"]):
            continue
        parts.append(
            f"{title(figure)}, by class and by size of the objects, differences from {found['against']}:\n\n"
            f"{_markdown(_where_rows(found))}"
        )
    messages = [f"- {name}, seed {seed}: {why}" for name, seed, why in _failed(value)]
    if messages:
        parts.append("\n".join(["Failed, and tried again by the same command:", "", *messages]))
    return "\n\n".join(parts) + "\n"


def shown(figures: Sequence[str]) -> list[str]:
    """Those that are reported: on the second part where there are parts."""
    whole = [name for name in figures if not name.endswith((FIRST, SECOND, *SIZES))]
    return [name + SECOND if name + SECOND in figures else name for name in whole]


def in_full(figures: Sequence[str]) -> list[str]:
    """Those that have tables and a chart of their own: the first and the last of the chain. sweep.json has them all."""
    reported = shown(figures)
    return reported if len(reported) < 2 else [reported[0], reported[-1]]


def _rows(value: dict[str, Any], reported: str) -> Rows:
    """Differences are those of the reported figure; with parts, all images and the first part stand before it."""
    whole = reported.removesuffix(SECOND)
    parts = {"all": whole, "first part": whole + FIRST, "second part": reported}
    columns = parts if reported != whole else {"mean": whole}
    rows: Rows = [("point", "seeds", *(h for name in columns for h in (name, "SE")), "difference", "SE")]
    for name, point in value["points"].items():
        found = point["figures"].get(reported, {})
        figures = (cell for key in columns.values() for cell in _spread(point["figures"].get(key), ".2f"))
        own = ("", "") if name == value["against"] else _spread(found.get("difference"), "+.2f")
        rows.append((name, str(found.get("n", 0)), *figures, *own))
    return rows


def _where_rows(found: dict[str, Any]) -> Rows:
    """A row for each class and size. Of the point that is compared with, means; of the others, differences."""
    points = {found["against"]: "mean", **{name: "difference" for name in found["points"] if name != found["against"]}}
    rows: Rows = [("", *(cell for name, kind in points.items() for cell in (f"{name}: {kind}", "SE")))]
    for row in dict.fromkeys(row for one in found["points"].values() for row in one):
        cells = [
            _spread(found["points"][name].get(row), ".2f")
            if kind == "mean"
            else _spread(found["points"][name].get(row, {}).get("difference"), "+.2f")
            for name, kind in points.items()
        ]
        rows.append((row, *(text for cell in cells for text in cell)))
    return rows


def _step_rows(value: dict[str, Any]) -> Rows:
    """A row for each figure of each point, in the order of the chain; none where runs end with their CAMs."""
    steps = {name: found for name, found in value.get("gains", {}).items() if found}
    others = len(value["points"]) > 1
    rows: Rows = []
    for name, found in steps.items():
        figures = value["points"][name]["figures"]
        for figure in (figure for figure in shown(value["figures"]) if figure in figures):
            own, gain = figures[figure], found.get(figure, {})
            differences = [gain.get("first"), gain.get("before")]
            differences += [None if name == value["against"] else own["difference"]] if others else []
            cells = (cell for one in differences for cell in _spread(one, "+.2f", ""))
            rows.append((name, title(figure.removesuffix(SECOND)), str(own["n"]), *_spread(own, ".2f"), *cells))
    heads = ["point", "step", "seeds", "mean", "SE", f"over {title(CAMS)}", "SE", "over before", "SE"]
    heads += [f"from {value['against']}", "SE"] if others else []
    return [tuple(heads), *rows] if rows else []


def _chosen(chosen: dict[str, Any]) -> str:
    rows: Rows = [("variant", "best point", "seeds", "mean", "SE", f"difference from {chosen['against']}", "SE")]
    for variant, found in chosen["variants"].items():
        own = ("", "") if variant == chosen["against"] else _spread(found["difference"], "+.2f")
        rows.append((variant, found["point"], str(found["n"]), *_spread(found, ".2f"), *own))
    return f"Each variant's best by {title(chosen['by'])}; {title(chosen['reported'])}:\n\n{_markdown(rows)}"


def _spread(found: dict[str, Any] | None, form: str, none: str = "-") -> tuple[str, str]:
    if not found:
        return none, none
    return format(found["mean"], form), "-" if found["se"] is None else f"{found['se']:.2f}"


def _failed(value: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, point in value["points"].items():
        yield from ((name, seed, message) for seed, message in point["failed"].items())


def _markdown(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    words = [column for column, cell in enumerate(rows[0]) if cell in WORDS]
    lines = [
        "| "
        + " | ".join(
            cell.ljust(width) if column in words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        )
        + " |"
        for row in rows
    ]
    rule = "|".join(
        "-" * (width + 2) if column in words else "-" * (width + 1) + ":" for column, width in enumerate(widths)
    )
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])
