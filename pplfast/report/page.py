"""The report's page: sections as HTML text, from what view.py has read."""

import html
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from pplfast.report.charts import Series, bar, line_chart, smooth, table
from pplfast.report.facts import facts_section, warnings
from pplfast.report.gallery import gallery
from pplfast.report.view import LABELS, RunView, VariantView

STEPS = {
    "train": "training",
    "cams": "CAMs",
    "eval_cam": "threshold sweep",
    "labels": "labels before the CRF",
    "labels_crf": "labels through the CRF",
    "eval_label": "scoring labels",
    "eval_label_crf": "scoring labels after the CRF",
    "cams_train": "CAMs to train on",
    "affinity_labels": "confident labels",
    "boundary": "training of the boundaries",
    "walk": "random walk",
    "eval_walk": "threshold sweep after the walk",
    "labels_walk": "labels from the walk",
    "eval_label_walk": "scoring labels from the walk",
    "walk_train": "random walk to train on",
    "labels_train": "labels to train on",
    "segmentation": "training of the segmentation",
    "predictions": "segmentation",
    "eval_segmentation": "scoring the segmentation",
    "facts_label": "reading the labels",
    "facts_label_crf": "reading the labels after the CRF",
    "facts_label_walk": "reading the labels from the walk",
    "facts_segmentation": "reading the segmentation",
}

# The figure of each step by what it is of.
SCORES = (
    ("cam_miou", "CAMs"),
    ("label_before_crf_miou", "labels without CRF"),
    ("label_miou", "labels after the CRF"),
    ("walk_label_miou", "labels after the random walk"),
    ("segmentation_miou", "segmentation network"),
)

# The same over narrow columns, by folder.
SHORT = {
    "cams": "CAMs",
    "labels": "labels",
    "labels_crf": "after CRF",
    "labels_walk": "after walk",
    "predictions": "network",
}


def page(view: RunView, images: int) -> str:
    """The whole document. It refers to nothing outside itself."""
    style = resources.files("pplfast.report").joinpath("style.css").read_text(encoding="utf-8")
    sections = [
        _header(view),
        warnings(view),
        _cards(view),
        _summary_table(view),
        facts_section(view),
        _charts(view),
        _class_table(view),
        f"<h2>Examples</h2>{gallery(view, images)}",
        _times(view),
        _settings(view),
    ]
    title = html.escape(f"pplfast: {view.summary['recipe']} on {view.summary['data']['val']['list']}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>\n{style}</style></head>\n<body><main>\n" + "\n".join(sections) + "\n</main></body></html>\n"
    )


def _header(view: RunView) -> str:
    data = view.summary["data"]
    scored = (
        f"{data['val']['scored']} of its {data['val']['images']} images scored"
        if data["val"]["scored"]
        else f"{data['val']['images']} images, no masks to score against"
    )
    miou = " All mIoU in percent, one confusion over the list, background included." if data["val"]["scored"] else ""
    return (
        f'<header><h1>Pixel labels from image labels</h1><p class="soft">Recipe <b>'
        f"{html.escape(view.summary['recipe'])}</b>, seed {view.summary['seed']}. Trained on "
        f"<b>{html.escape(data['train']['list'])}</b> ({data['train']['images']} images); CAMs and labels of "
        f"<b>{html.escape(data['val']['list'])}</b> ({scored}).{miou}</p></header>"
    )


def _cards(view: RunView) -> str:
    cards = []
    ppl = next((variant for variant in view.variants if variant.key == "ppl"), view.variants[-1])
    plain = next((variant for variant in view.variants if variant.key == "plain"), None)
    for key, text in _card_scores(ppl):
        value = ppl.numbers.get(key)
        if value is not None:
            versus = ""
            if plain is not None and plain is not ppl and plain.numbers.get(key) is not None:
                versus = f" {_delta(value - plain.numbers[key])} over plain"
            cards.append(f"<b>{value:.1f}</b><span>{text}, {html.escape(ppl.title.lower())}{versus}</span>")
    for source, facts in list(ppl.numbers["without_masks"].items())[-1:]:
        cards.append(f"<b>{facts['foreground']:.0f} %</b><span>mean foreground, {LABELS[source]}</span>")
    rates = ppl.numbers.get("images_per_second", {})
    for step, text in (("train", "images/s in training"), ("cams", "images/s through the CAMs")):
        if rates.get(step):
            cards.append(f"<b>{rates[step]:.1f}</b><span>{text}, {html.escape(ppl.title.lower())}</span>")
    cards.append(f"<b>{_duration(sum(_seconds(view).values()))}</b><span>for all steps and variants</span>")
    return '<div class="cards">' + "".join(f'<div class="card">{card}</div>' for card in cards) + "</div>"


def _card_scores(variant: VariantView) -> list[tuple[str, str]]:
    """Of the CAMs, and of what comes last."""
    scored = [(key, f"mIoU of the {text}") for key, text in _scored([variant])]
    return [*scored[:1], *scored[1:][-1:]]


def _scored(variants: Sequence[VariantView]) -> list[tuple[str, str]]:
    """The entries of SCORES that some variant has a figure for."""
    with_crf = any(variant.numbers["crf"] != "none" for variant in variants)
    return [
        (key, text)
        for key, text in SCORES
        if any(variant.numbers.get(key) is not None for variant in variants)
        and (with_crf or key != "label_miou")  # without CRF that is the figure of the labels before it, again
    ]


def _summary_table(view: RunView) -> str:
    """mIoU by step; "" where nothing is scored."""
    columns = _scored(view.variants)
    if not columns:
        return ""
    plain = next((variant.numbers for variant in view.variants if variant.key == "plain"), {})
    rows = []
    for variant in view.variants:
        cells = [f'<td><span class="swatch b-{variant.key}"></span>{html.escape(variant.title)}</td>']
        for key, _ in columns:
            value, base = variant.numbers.get(key), plain.get(key)
            best = max((other.numbers.get(key) or 0 for other in view.variants), default=0)
            delta = "" if value is None or base is None or variant.key == "plain" else f" ({_delta(value - base)})"
            cells.append(
                f'<td class="best">{value:.1f}{delta}</td>'
                if value is not None and value == best
                else f"<td>{'not scored' if value is None else f'{value:.1f}{delta}'}</td>"
            )
        cells.append(
            f"<td>{variant.numbers['background']}</td><td>{_duration(sum(variant.numbers['seconds'].values()))}</td>"
        )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    heads = ("", *(f"mIoU of the {text}" for _, text in columns), "background", "time")
    return f'<h2>Results</h2><div class="panel">{table(heads, "".join(rows))}</div>'


def _charts(view: RunView) -> str:
    losses, sweeps = [], []
    for variant in view.variants:
        values = smooth([entry["loss"] for entry in variant.log], max(len(variant.log) // 40, 1))
        losses.append(Series(variant.title, f"s-{variant.key}", [entry["iteration"] for entry in variant.log], values))
        if variant.cam_scores:
            points = variant.cam_scores["sweep"]
            sweeps.append(
                Series(
                    variant.title,
                    f"s-{variant.key}",
                    [point["threshold"] for point in points],
                    [point["miou"] for point in points],
                    (variant.cam_scores["threshold"], variant.cam_scores["miou"]),
                )
            )
    body = _panel("Training loss, running mean", losses, line_chart(losses, "step", "loss", y_from_zero=True)) + _panel(
        "CAM mIoU over the background threshold", sweeps, line_chart(sweeps, "threshold", "mIoU (%)")
    )
    return f'<h2>Curves</h2><div class="panels">{body}</div>' if body else ""


def _panel(title: str, series: Sequence[Series], chart: str) -> str:
    if not chart:
        return ""
    legend = "".join(
        f'<span class="key"><i class="b-{one.css.removeprefix("s-")}"></i>{html.escape(one.name)}'
        + (f": {one.mark[1]:.1f} at {one.mark[0]:g}" if one.mark else "")
        + "</span>"
        for one in series
    )
    return f'<div class="panel"><h3>{title}</h3><p class="legend">{legend}</p><div class="plot">{chart}</div></div>'


def _class_table(view: RunView) -> str:
    titles = dict(SHORT)
    if any("labels_crf" in variant.label_scores for variant in view.variants):
        del titles["labels"]  # what the CRF begins with
    columns = [
        (variant, title, scores)
        for kind, title in titles.items()
        for variant in view.variants
        if (scores := variant.cam_scores if kind == "cams" else variant.label_scores.get(kind))
    ]
    if not columns:
        return ""
    heads = [
        f'<span class="nowrap"><span class="swatch b-{variant.key}"></span>{variant.key}</span><br>{kind}'
        for variant, kind, _ in columns
    ]
    rows = []
    for index, entry in enumerate(columns[0][2]["classes"]):
        values = [scores["classes"][index]["iou"] for _, _, scores in columns]
        rows.append(f"<tr><td>{html.escape(entry['name'])}</td>{_iou_cells(columns, values)}</tr>")
    means = _iou_cells(columns, [scores["miou"] for _, _, scores in columns])
    rows.append(f'<tr class="total"><td>mean</td>{means}</tr>')
    return f'<h2>IoU per class</h2><div class="panel">{table(["class", *heads], "".join(rows))}</div>'


def _iou_cells(columns: Sequence[tuple[VariantView, str, Any]], values: Sequence[float | None]) -> str:
    """Bold: the best variant of its kind (CAMs, or one step's labels)."""
    cells = []
    for (_, kind, _), value in zip(columns, values, strict=True):
        rivals = [
            other
            for (_, other_kind, _), other in zip(columns, values, strict=True)
            if other_kind == kind and other is not None
        ]
        if value is None:
            cells.append("<td>absent</td>")
        else:
            best = ' class="best"' if len(rivals) > 1 and value == max(rivals) else ""
            cells.append(f"<td{best}>{value:.1f}</td>")
    return "".join(cells)


def _times(view: RunView) -> str:
    longest = max(_seconds(view).values(), default=0) or 1
    rows = []
    for variant in view.variants:
        for step, seconds in variant.numbers["seconds"].items():
            rate = variant.numbers["images_per_second"].get(step)
            rows.append(
                f'<tr><td><span class="swatch b-{variant.key}"></span>{html.escape(variant.title)}</td>'
                f"<td>{STEPS[step]}</td><td>{_duration(seconds)}</td>"
                f"<td>{f'{rate:.1f}' if rate else ''}</td>"
                f"<td>{bar(seconds / longest, f'b-{variant.key}')}</td></tr>"
            )
    heads = ("", "step", "time", "images/s", "")
    return f'<h2>Time per step</h2><div class="panel">{table(heads, "".join(rows), left=2)}</div>'


def _settings(view: RunView) -> str:
    facts = {**view.summary["versions"], **view.summary["hardware"]}
    rows = "".join(
        f'<tr><td>{html.escape(str(name))}</td><td class="text">{html.escape(str(value))}</td></tr>'
        for name, value in facts.items()
    )
    recipe = html.escape(json.dumps(view.run["recipe"], indent=2))
    return (
        '<h2>Settings</h2><div class="panels"><div class="panel"><h3>Versions and hardware</h3>'
        f'{table((), rows, left=2)}</div><div class="panel"><h3>Command</h3>'
        f"<pre>{html.escape(view.run['command'])}</pre>"
        f"<details><summary>Recipe</summary><pre>{recipe}</pre></details></div></div>"
    )


def _seconds(view: RunView) -> dict[str, float]:
    return {
        f"{variant.key} {step}": seconds
        for variant in view.variants
        for step, seconds in variant.numbers["seconds"].items()
    }


def _delta(value: float) -> str:
    return f'<span class="{"up" if value >= 0 else "down"}">{value:+.1f}</span>'


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"
