"""The page's tables of figures: mIoU by step, IoU by class, time by step."""

from collections.abc import Sequence

from pplfast.report.charts import bar, row, swatch, table
from pplfast.report.markup import NOTHING, Child, Markup, element, join
from pplfast.report.view import RunView, ScoreView, VariantView
from pplfast.steps import SHOWN, STEP


def scored(variants: Sequence[VariantView]) -> list[tuple[str, str]]:
    """Name and text of the maps and labels that some variant has a figure for, in the order of the chain."""
    with_crf = any(variant.with_crf for variant in variants)
    return [
        (step.name, step.text)
        for step in SHOWN
        if any(step.name in variant.mious for variant in variants)
        and (with_crf or step.name != "labels_crf")  # without CRF that is the figure of the labels before it, again
    ]


def summary_table(view: RunView) -> Markup:
    """mIoU by step; NOTHING where nothing is scored."""
    columns = scored(view.variants)
    if not columns:
        return NOTHING
    plain: dict[str, float] = next((variant.mious for variant in view.variants if variant.key == "plain"), {})
    rows = []
    for variant in view.variants:
        cells = [element("td", swatch(variant.key), variant.title)]
        for name, _ in columns:
            best = max(other.mious.get(name, 0.0) for other in view.variants)
            base = None if variant.key == "plain" else plain.get(name)
            cells.append(_figure(variant.mious.get(name), base, best))
        cells.append(element("td", variant.background))
        cells.append(element("td", duration(sum(variant.seconds.values()))))
        rows.append(element("tr", *cells))
    heads = ("", *(f"mIoU of the {text}" for _, text in columns), "background", "time")
    return join([element("h2", "Results"), element("div", table(heads, rows), css="panel")])


def _figure(value: float | None, base: float | None, best: float) -> Markup:
    if value is None:
        return element("td", "not scored")
    versus = NOTHING if base is None else join([" (", delta(value - base), ")"])
    return element("td", f"{value:.1f}", versus, css="best" if value == best else "")


Column = tuple[VariantView, str, ScoreView]


def class_table(view: RunView) -> Markup:
    """IoU of each class; NOTHING where nothing is scored."""
    titles = {step.name: step.short for step in SHOWN}
    if any("labels_crf" in variant.scores for variant in view.variants):
        del titles["labels"]  # what the CRF begins with
    columns = [
        (variant, title, variant.scores[name])
        for name, title in titles.items()
        for variant in view.variants
        if name in variant.scores
    ]
    notes = [
        element("p", f"Not shown: {problem}", css="note")
        for variant in view.variants
        for name, problem in variant.unreadable.items()
        if name in STEP and STEP[name].short
    ]
    if not columns and not notes:
        return NOTHING
    shown = _class_rows(columns) if columns else NOTHING
    return join([element("h2", "IoU per class"), element("div", shown, *notes, css="panel")])


def _class_rows(columns: Sequence[Column]) -> Markup:
    names = columns[0][2].names
    heads = [
        join([element("span", swatch(variant.key), variant.key, css="nowrap"), element("br"), kind])
        for variant, kind, _ in columns
    ]
    rows = [
        element("tr", element("td", name), *_iou_cells(columns, [scores.ious[index] for _, _, scores in columns]))
        for index, name in enumerate(names)
    ]
    means = _iou_cells(columns, [scores.miou for _, _, scores in columns])
    rows.append(element("tr", element("td", "mean"), *means, css="total"))
    return table(["class", *heads], rows)


def _iou_cells(columns: Sequence[Column], values: Sequence[float | None]) -> list[Markup]:
    """Bold: the best variant of its kind (CAMs, or one step's labels)."""
    cells = []
    for (_, kind, _), value in zip(columns, values, strict=True):
        rivals = [
            other
            for (_, other_kind, _), other in zip(columns, values, strict=True)
            if other_kind == kind and other is not None
        ]
        if value is None:
            cells.append(element("td", "absent"))
        else:
            best = len(rivals) > 1 and value == max(rivals)
            cells.append(element("td", f"{value:.1f}", css="best" if best else ""))
    return cells


def times_table(view: RunView) -> Markup:
    """One row for each step of each variant."""
    longest = max((seconds for variant in view.variants for seconds in variant.seconds.values()), default=0) or 1
    rows = []
    for variant in view.variants:
        for step, seconds in variant.seconds.items():
            rate = variant.rates.get(step)
            cells: tuple[Child, ...] = (
                join([swatch(variant.key), variant.title]),
                STEP[step].title if step in STEP else step,
                duration(seconds),
                f"{rate:.1f}" if rate else "",
                bar(seconds / longest, f"b-{variant.key}"),
            )
            rows.append(row("td", cells))
    heads = ("", "step", "time", "images/s", "")
    return join([element("h2", "Time per step"), element("div", table(heads, rows, left=2), css="panel")])


def delta(value: float) -> Markup:
    """A difference of mIoU, in points, coloured by its sign."""
    return element("span", f"{value:+.1f}", css="up" if value >= 0 else "down")


def duration(seconds: float) -> str:
    """In the unit that reads well."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"
