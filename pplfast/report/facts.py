"""The report's part on labels that no mask scores: what looks wrong, and what they show by themselves."""

import html
from typing import Any

from pplfast.evaluate.unscored import ALMOST_ALL, MAX_ABSENT, MAX_ALMOST_ALL, MAX_EMPTY, suspicious
from pplfast.report.charts import table
from pplfast.report.view import LABELS, RunView


def warnings(view: RunView) -> str:
    """A box with what looks wrong, in words; "" where nothing does."""
    lines = "".join(f"<li>{html.escape(text)}</li>" for text in view.summary["warnings"])
    return f'<div class="warning"><b>These labels look wrong</b><ul>{lines}</ul></div>' if lines else ""


def facts_section(view: RunView) -> str:
    """A table with one row per label set without masks; "" where all are scored."""
    rows = "".join(
        _row(f", {variant.title.lower()}" if len(view.variants) > 1 else "", variant.key, source, facts)
        for variant in view.variants
        for source, facts in variant.numbers["without_masks"].items()
    )
    if not rows:
        return ""
    heads = (
        "labels",
        "images",
        "mean foreground",
        f"images over {ALMOST_ALL:g} % foreground",
        "image labels without a pixel",
        "foreground of absent classes",
    )
    background = ", ".join(sorted({variant.numbers["background"] for variant in view.variants}))
    return (
        f'<h2>What the labels show without masks</h2><div class="panel">{table(heads, rows)}'
        '<p class="note">Signs of failure, not a measure of quality: no mask says how good these labels are. Usual are '
        f"at most {MAX_ALMOST_ALL:g} % of the images over {ALMOST_ALL:g} % foreground, {MAX_EMPTY:g} % of the image "
        f"labels without a pixel, {MAX_ABSENT:g} % of the foreground in classes that its image does not have; "
        "CAM labels are made of the image's own classes, so only the network can have such. Background of the CAMs: "
        f"{html.escape(background)}.</p></div>"
    )


def _row(of_variant: str, key: str, source: str, facts: dict[str, Any]) -> str:
    bad = suspicious(facts)

    def cell(name: str, text: str) -> str:
        return f'<td class="bad">{text}</td>' if name in bad else f"<td>{text}</td>"

    images, declared = facts["images"], facts["declared"]
    cells = [
        f'<td class="text"><span class="swatch b-{key}"></span>{LABELS[source]}{html.escape(of_variant)}</td>',
        f"<td>{images}</td><td>{facts['foreground']:.1f} %</td>",
        cell("almost_all", f"{facts['almost_all']} of {images}"),
    ]
    if declared is None:
        cells.append("<td>no image labels</td>" * 2)
    else:
        cells += [cell("empty", f"{facts['empty']} of {declared}"), cell("absent", f"{facts['absent']:.1f} %")]
    return f"<tr>{''.join(cells)}</tr>"
