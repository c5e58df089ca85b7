"""The report's part on labels that no mask scores: what looks wrong, and what they show by themselves."""

from typing import Any

from pplfast.evaluate.unscored import ALMOST_ALL, MAX_ABSENT, MAX_ALMOST_ALL, MAX_EMPTY, suspicious
from pplfast.report.charts import swatch, table
from pplfast.report.markup import NOTHING, Markup, element, join
from pplfast.report.view import RunView
from pplfast.steps import LABELS


def warnings(view: RunView) -> Markup:
    """A box with what looks wrong, in words; NOTHING where nothing does."""
    lines = [element("li", text) for text in view.warnings]
    head = element("b", "These labels look wrong")
    return element("div", head, element("ul", *lines), css="warning") if lines else NOTHING


def facts_section(view: RunView) -> Markup:
    """A table with one row per label set without masks; NOTHING where all are scored."""
    rows = [
        _row(f", {variant.title.lower()}" if len(view.variants) > 1 else "", variant.key, source, facts)
        for variant in view.variants
        for source, facts in variant.facts.items()
    ]
    if not rows:
        return NOTHING
    heads = (
        "labels",
        "images",
        "mean foreground",
        f"images over {ALMOST_ALL:g} % foreground",
        "image labels without a pixel",
        "foreground of absent classes",
    )
    background = ", ".join(sorted({variant.background for variant in view.variants}))
    note = (
        "Signs of failure, not a measure of quality: no mask says how good these labels are. Usual are "
        f"at most {MAX_ALMOST_ALL:g} % of the images over {ALMOST_ALL:g} % foreground, {MAX_EMPTY:g} % of the image "
        f"labels without a pixel, {MAX_ABSENT:g} % of the foreground in classes that its image does not have; "
        "CAM labels are made of the image's own classes, so only the network can have such. Background of the CAMs: "
        f"{background}."
    )
    panel = element("div", table(heads, rows), element("p", note, css="note"), css="panel")
    return join([element("h2", "What the labels show without masks"), panel])


def _row(of_variant: str, key: str, source: str, facts: dict[str, Any]) -> Markup:
    bad = suspicious(facts)

    def cell(name: str, text: str) -> Markup:
        return element("td", text, css="bad" if name in bad else "")

    images, declared = facts["images"], facts["declared"]
    cells = [
        element("td", swatch(key), LABELS[source], of_variant, css="text"),
        element("td", f"{images:d}"),
        element("td", f"{facts['foreground']:.1f} %"),
        cell("almost_all", f"{facts['almost_all']:d} of {images:d}"),
    ]
    if declared is None:
        cells += [element("td", "no image labels")] * 2
    else:
        cells += [cell("empty", f"{facts['empty']:d} of {declared:d}"), cell("absent", f"{facts['absent']:.1f} %")]
    return element("tr", *cells)
