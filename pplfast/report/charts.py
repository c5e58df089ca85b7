"""Tables, and charts as inline SVG, drawn with the page's own colours so that they follow its light or dark theme."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pplfast.report.markup import NOTHING, Child, Markup, element, join

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 14, 52  # room for the larger type of a narrow page, see style.css
MAX_POINTS = 2000  # of a line; a chart has fewer pixels
RESOLUTION = 1e-6  # the least span of an axis, as a share of its values: below it floats run out of digits


@dataclass(frozen=True)
class Series:
    name: str
    css: str  # CSS class that sets the colour, for example "s-ppl"
    x: Sequence[float]  # finite
    y: Sequence[float]  # a point whose y is not finite is left out
    mark: tuple[float, float] | None = None  # a point shown as a dot


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover [low, high] in about `count` steps."""
    span = max(high - low, 1e-9, RESOLUTION * max(abs(low), abs(high)))
    step = 10.0 ** math.floor(math.log10(span / count))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10, 20) if span / (step * factor) <= count)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def line_chart(series: Sequence[Series], x_label: str, y_label: str, y_from_zero: bool = False) -> Markup:
    """An SVG element; NOTHING where no series has a point. y_from_zero: unless a value is below it."""
    shown = [(one, _points(one)) for one in series]
    points = [point for _, own in shown for point in own]
    if not points:
        return NOTHING
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = min(ys), max(ys)
    from_zero = y_from_zero and y_low >= 0
    y_low = 0.0 if from_zero else y_low
    margin = 0.05 * max(y_high - y_low, RESOLUTION * max(abs(y_low), abs(y_high), 1.0))
    y_low, y_high = y_low if from_zero else y_low - margin, y_high + margin
    plot_width, plot_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def px(value: float) -> float:
        return LEFT + plot_width * (value - x_low) / max(x_high - x_low, 1e-9)

    def py(value: float) -> float:
        return TOP + plot_height * (1 - (value - y_low) / (y_high - y_low))

    def level(css: str, y: str) -> Markup:
        return element("line", css=css, x1=str(LEFT), x2=str(WIDTH - RIGHT), y1=y, y2=y)

    def label(text: str, x: str, y: str, anchor: str = "middle") -> Markup:
        return element("text", text, x=x, y=y, text_anchor=anchor)

    bottom = HEIGHT - BOTTOM
    parts: list[Markup] = []
    for value in ticks(y_low, y_high):
        parts.append(level("grid", f"{py(value):.1f}"))
        parts.append(label(f"{value:g}", str(LEFT - 7), f"{py(value) + 4:.1f}", "end"))
    parts += [label(f"{value:g}", f"{px(value):.1f}", str(bottom + 20)) for value in ticks(x_low, x_high, 7)]
    parts.append(level("axis", str(bottom)))
    for one, own in shown:
        line = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in own)
        parts.append(element("polyline", css=f"line {one.css}", points=line))
    for one in series:
        if one.mark:
            x, y = one.mark
            parts.append(element("circle", css=f"dot {one.css}", cx=f"{px(x):.1f}", cy=f"{py(y):.1f}", r="4.5"))
    parts.append(label(x_label, f"{LEFT + plot_width / 2:.0f}", str(HEIGHT - 6)))
    turned = f"translate(16 {TOP + plot_height / 2:.0f}) rotate(-90)"
    parts.append(element("text", y_label, transform=turned, text_anchor="middle"))
    return element(
        "svg", *parts, css="chart", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{y_label} over {x_label}"
    )


def _points(one: Series) -> list[tuple[float, float]]:
    """The finite ones, at most MAX_POINTS of them, evenly spread; the last one is always among them."""
    points = [(x, y) for x, y in zip(one.x, one.y, strict=True) if math.isfinite(y)]
    every = max(math.ceil(len(points) / MAX_POINTS), 1)
    return points[(len(points) - 1) % every :: every] if points else []


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Mean over the last `window` values at each point: batch losses are too noisy to compare by eye.

    Values that are not finite are left out; NaN where all of the window are.
    """
    total, count, out = 0.0, 0, []
    for index, value in enumerate(values):
        if math.isfinite(value):
            total, count = total + value, count + 1
        if index >= window and math.isfinite(values[index - window]):
            total, count = total - values[index - window], count - 1
        out.append(total / count if count else math.nan)
    return out


def table(heads: Sequence[Child], rows: Sequence[Markup], left: int = 1) -> Markup:
    """An HTML table that scrolls sideways where it does not fit. rows: its <tr> elements; left: columns of text."""
    head = element("thead", row("th", heads)) if heads else NOTHING
    return element(
        "div", element("table", head, element("tbody", *rows), css=f"left{left}"), css="scroll", tabindex="0"
    )


def row(cell: str, contents: Sequence[Child]) -> Markup:
    """A <tr> with each of `contents` in a cell of this kind, "td" or "th"."""
    return element("tr", join(element(cell, content) for content in contents))


def bar(fraction: float, css: str) -> Markup:
    """A horizontal bar inside a table cell; `fraction` of the cell's width."""
    width = f"width:{100 * min(max(0.0, fraction), 1):.1f}%"
    return element("span", element("span", css=css, style=width), css="bar")


def swatch(variant: str) -> Markup:
    """A variant's colour, as a small square."""
    return element("span", css=f"swatch b-{variant}")
