"""The report's page: sections as markup, from what view.py has read."""

import json

from pplfast.report.charts import Series, line_chart, smooth, table
from pplfast.report.document import document
from pplfast.report.facts import facts_section, warnings
from pplfast.report.final import main_variant
from pplfast.report.gallery import gallery
from pplfast.report.markup import NOTHING, Child, Markup, element, join
from pplfast.report.tables import class_table, delta, duration, scored, summary_table, times_table
from pplfast.report.view import CAMS, RunView, VariantView
from pplfast.steps import LABELS


def page(view: RunView, images: int, product: Markup) -> str:
    """The whole document. product: the part on the final labels; images: of how many the steps in between are shown."""
    sections = [
        _header(view),
        warnings(view),
        _cards(view),
        product,
        summary_table(view),
        facts_section(view),
        _charts(view),
        class_table(view),
        join([element("h2", "Examples, step by step"), gallery(view, images)]),
        times_table(view),
        _settings(view),
    ]
    return document(f"pplfast: {view.recipe_name} on {view.val.name}", sections, "labels.css")


def _header(view: RunView) -> Markup:
    val = view.val
    counted = (
        f"{val.scored:d} of its {val.images:d} images scored"
        if val.scored
        else f"{val.images:d} images, no masks to score against"
    )
    text = element(
        "p",
        "Recipe ",
        element("b", view.recipe_name),
        f", seed {view.seed:d}. Trained on ",
        element("b", view.train.name),
        f" ({view.train.images:d} images); CAMs and labels of ",
        element("b", val.name),
        f" ({counted}).",
        " All mIoU in percent, one confusion over the list, background included." if val.scored else "",
        css="soft",
    )
    return element("header", element("h1", "Pixel labels from image labels"), text)


def _cards(view: RunView) -> Markup:
    cards: list[Markup] = []

    def card(figure: str, *text: Child) -> None:
        cards.append(element("div", element("b", figure), element("span", *text), css="card"))

    ppl = main_variant(view)
    plain = next((variant for variant in view.variants if variant.key == "plain" and variant is not ppl), None)
    for name, text in _card_scores(ppl):
        versus: Child = NOTHING
        if plain is not None and name in plain.mious:
            versus = join([" ", delta(ppl.mious[name] - plain.mious[name]), " over plain"])
        card(f"{ppl.mious[name]:.1f}", f"{text}, {ppl.title.lower()}", versus)
    for source, facts in list(ppl.facts.items())[-1:]:
        card(f"{facts['foreground']:.0f} %", f"mean foreground, {LABELS[source]}")
    for step, text in (("train", "images/s in training"), ("cams", "images/s through the CAMs")):
        if ppl.rates.get(step):
            card(f"{ppl.rates[step]:.1f}", f"{text}, {ppl.title.lower()}")
    total = sum(sum(variant.seconds.values()) for variant in view.variants)
    card(duration(total), "for all steps and variants")
    return element("div", *cards, css="cards")


def _card_scores(variant: VariantView) -> list[tuple[str, str]]:
    """Of what comes last, and of the CAMs."""
    figures = [(name, f"mIoU of the {text}") for name, text in scored([variant])]
    return [*figures[1:][-1:], *figures[:1]]


def _charts(view: RunView) -> Markup:
    losses, sweeps = [], []
    for variant in view.variants:
        css, log = f"s-{variant.key}", variant.losses
        if log.values:
            values = smooth(log.values, max(len(log.values) // 40, 1))
            losses.append(Series(variant.title, css, log.steps, values))
        cams = variant.scores.get(CAMS)
        if cams and cams.threshold is not None:
            xs, ys = [x for x, _ in cams.sweep], [y for _, y in cams.sweep]
            sweeps.append(Series(variant.title, css, xs, ys, (cams.threshold, cams.miou)))
    notes = [variant.unreadable.get("train", variant.losses.note) for variant in view.variants]
    panels = [
        _panel("Training loss, running mean", losses, line_chart(losses, "step", "loss", y_from_zero=True), notes),
        _panel(
            "CAM mIoU over the background threshold",
            sweeps,
            line_chart(sweeps, "threshold", "mIoU (%)"),
            [variant.unreadable.get(CAMS, "") for variant in view.variants],
        ),
    ]
    panels = [panel for panel in panels if panel]
    return join([element("h2", "Curves"), element("div", *panels, css="panels")]) if panels else NOTHING


def _panel(title: str, series: list[Series], chart: Markup, notes: list[str]) -> Markup:
    """NOTHING without a chart or anything to say of its files."""
    said = [element("p", f"Not shown: {note}", css="note") for note in notes if note]
    if not chart:
        return element("div", element("h3", title), *said, css="panel") if said else NOTHING
    legend = [
        element(
            "span",
            element("i", css=f"b-{one.css.removeprefix('s-')}"),
            one.name,
            f": {one.mark[1]:.1f} at {one.mark[0]:g}" if one.mark else "",
            css="key",
        )
        for one in series
    ]
    plot = element("div", chart, css="plot")
    return element("div", element("h3", title), element("p", *legend, css="legend"), plot, *said, css="panel")


def _settings(view: RunView) -> Markup:
    rows = [element("tr", element("td", name), element("td", text, css="text")) for name, text in view.facts.items()]
    machine = element("div", element("h3", "Versions and hardware"), table((), rows, left=2), css="panel")
    recipe = element("details", element("summary", "Recipe"), element("pre", json.dumps(view.recipe, indent=2)))
    command = element("div", element("h3", "Command"), element("pre", view.command), recipe, css="panel")
    return join([element("h2", "Settings"), element("div", machine, command, css="panels")])
