"""Tables, and charts as inline SVG, drawn with the page's own colours so that they follow its light or dark theme."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 14, 52  # room for the larger type of a narrow page, see style.css


@dataclass(frozen=True)
class Series:
    name: str
    css: str  # CSS class that sets the colour, for example "s-ppl"
    x: Sequence[float]
    y: Sequence[float]
    mark: tuple[float, float] | None = None  # a point shown as a dot


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover [low, high] in about `count` steps."""
    span = max(high - low, 1e-9)
    step = 10 ** math.floor(math.log10(span / count))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if span / (step * factor) <= count)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def line_chart(series: Sequence[Series], x_label: str, y_label: str, y_from_zero: bool = False) -> str:
    """An SVG element; "" where no series has a point."""
    xs = [value for one in series for value in one.x]
    ys = [value for one in series for value in one.y if math.isfinite(value)]
    if not xs or not ys:
        return ""
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = (0.0 if y_from_zero else min(ys)), max(ys)
    margin = 0.05 * max(y_high - y_low, 1e-6)
    y_low, y_high = (y_low if y_from_zero else y_low - margin), y_high + margin
    plot_width, plot_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def px(value: float) -> float:
        return LEFT + plot_width * (value - x_low) / max(x_high - x_low, 1e-9)

    def py(value: float) -> float:
        return TOP + plot_height * (1 - (value - y_low) / (y_high - y_low))

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(y_label)} over {html.escape(x_label)}">'
    ]
    for value in ticks(y_low, y_high):
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py(value):.1f}" y2="{py(value):.1f}"/>'
            f'<text x="{LEFT - 7}" y="{py(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    for value in ticks(x_low, x_high, 7):
        parts.append(f'<text x="{px(value):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    for one in series:
        points = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in zip(one.x, one.y, strict=True) if math.isfinite(y))
        parts.append(f'<polyline class="line {one.css}" points="{points}"/>')
    for one in series:
        if one.mark:
            x, y = one.mark
            parts.append(f'<circle class="dot {one.css}" cx="{px(x):.1f}" cy="{py(y):.1f}" r="4.5"/>')
    parts.append(
        f'<text x="{LEFT + plot_width / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{html.escape(x_label)}'
        f'</text><text transform="translate(16 {TOP + plot_height / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle">{html.escape(y_label)}</text></svg>'
    )
    return "".join(parts)


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Mean over the last `window` values at each point: batch losses are too noisy to compare by eye."""
    total, out = 0.0, []
    for index, value in enumerate(values):
        total += value - (values[index - window] if index >= window else 0.0)
        out.append(total / min(index + 1, window))
    return out


def table(heads: Sequence[str], rows: str, left: int = 1) -> str:
    """An HTML table that scrolls sideways where it does not fit. rows: its <tr> elements; left: columns of text."""
    row = f"<thead><tr>{''.join(f'<th>{text}</th>' for text in heads)}</tr></thead>" if heads else ""
    return f'<div class="scroll" tabindex="0"><table class="left{left}">{row}<tbody>{rows}</tbody></table></div>'


def bar(fraction: float, css: str) -> str:
    """A horizontal bar inside a table cell; `fraction` of the cell's width."""
    return f'<span class="bar"><span class="{css}" style="width:{100 * min(max(fraction, 0), 1):.1f}%"></span></span>'
