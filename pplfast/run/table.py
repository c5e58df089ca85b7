"""The figures of a run as text."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pplfast.evaluate.unscored import ALMOST_ALL
from pplfast.steps import LABELS, SCORES, SHOWN, VARIANTS

FIGURES = [(step.short, SCORES[step.name].figure) for step in SHOWN]  # head, name in the summary
TIMES = {"train time": ("train",), "CAM time": ("cams",), "label time": ("labels", "labels_crf")}


def closing(summary: dict[str, Any], out: Path) -> str:
    """What `pplfast run` says in the end: figures, what looks wrong, and where the labels and the report are."""
    parts = [
        summary_table(summary),
        facts_table(summary),
        "\n".join(f"warning: {text}" for text in summary["warnings"]),
        label_folders(summary, out),
    ]
    return "\n\n".join(part for part in parts if part) + f"\nreport: {out / 'report.html'}"


def summary_table(summary: dict[str, Any]) -> str:
    """One line per variant. mIoU in percent, times in seconds. Columns without any figure are left out."""
    parts = {name: summary[name] for name in VARIANTS if name in summary}
    columns = _known(parts.values(), with_crf=any(part["crf"] != "none" for part in parts.values()))
    rows = [("variant", *(head for head, _ in columns), "background", *TIMES)]
    for variant, part in parts.items():
        times = [sum(part["seconds"].get(step, 0) for step in steps) for steps in TIMES.values()]
        figures = [_figure(part.get(key)) for _, key in columns]
        rows.append((variant, *figures, part["background"], *(f"{time:.0f} s" for time in times)))
    val, test = summary["data"]["val"], summary["data"].get("test")
    notes = [
        f"mIoU in percent, scored on {val['list']}: {val['scored']} of {val['images']} images"
        if val["scored"]
        else f"{val['list']}: {val['images']} images, no masks, nothing scored"
    ]
    if test and test["scored"]:
        notes.append(f"network: on {test['list']}: {test['scored']} of {test['images']} images")
    return "\n".join([*_align(rows), *notes])


def facts_table(summary: dict[str, Any]) -> str:
    """What label sets without masks show by themselves, one line each; "" where all are scored."""
    rows: list[Sequence[str]] = [("without masks", "images", "foreground", "almost all", "empty", "absent")]
    for variant in (key for key in VARIANTS if key in summary):
        for source, facts in summary[variant]["without_masks"].items():
            rows.append(
                (
                    f"{variant}, {LABELS[source]}",
                    str(facts["images"]),
                    f"{facts['foreground']:.1f} %",
                    f"{facts['almost_all']} of {facts['images']}",
                    "unknown" if facts["empty"] is None else f"{facts['empty']} of {facts['declared']}",
                    "unknown" if facts["absent"] is None else f"{facts['absent']:.1f} %",
                )
            )
    if len(rows) == 1:
        return ""
    return "\n".join(
        [
            *_align(rows),
            f"foreground: mean share of an image; almost all: images with over {ALMOST_ALL:g} % of it; empty: image",
            "labels without a pixel; absent: foreground of classes that its image does not have",
        ]
    )


def label_folders(summary: dict[str, Any], out: Path) -> str:
    """Where the label PNGs are, the last of the chain first."""
    rows = []
    for variant in (key for key in VARIANTS if key in summary):
        made = [source for source in reversed(LABELS) if source in summary[variant]["seconds"]]
        rows += [(str(out / variant / source), LABELS[source]) for source in made]
    return "\n".join(["label PNGs:", *(f"  {line}" for line in _align(rows, left=True))])


def seeds_closing(result: dict[str, Any], out: Path) -> str:
    """What `pplfast run --seeds` says in the end."""
    folders = [(f"seed{seed}", result["runs"][f"seed{seed}"]) for seed in result["seeds"]]
    parts = [
        seeds_table(result),
        "\n".join(f"warning: {name}, {text}" for name, run in folders for text in run["warnings"]),
        label_folders(folders[0][1], out / folders[0][0]) + ("\n  and so for the other seeds" if folders[1:] else ""),
    ]
    reports = ", ".join(str(out / name / "report.html") for name, _ in folders)
    return "\n\n".join(part for part in parts if part) + f"\nreports: {reports}"


def seeds_table(result: dict[str, Any]) -> str:
    """One line per variant and seed, and the mean. mIoU in percent."""
    means = result["mean"].values()
    with_crf = any(run[name]["crf"] != "none" for run in result["runs"].values() for name in result["mean"])
    columns = _known(means, with_crf)
    if not columns:
        return "no masks, nothing scored; each seed's report says what its labels show by themselves"
    rows = [("variant", "seed", *(head for head, _ in columns))]
    for variant, mean in result["mean"].items():
        parts = [(str(seed), result["runs"][f"seed{seed}"][variant]) for seed in result["seeds"]]
        rows += [
            (variant, seed, *(_figure(part.get(key)) for _, key in columns)) for seed, part in [*parts, ("mean", mean)]
        ]
    return "\n".join(_align(rows))


def _known(parts: Collection[dict[str, Any]], with_crf: bool) -> list[tuple[str, str]]:
    """The FIGURES that some part has. Without a CRF the figure after it is the one before it, again."""
    return [
        (head, key)
        for head, key in FIGURES
        if any(part.get(key) is not None for part in parts) and (with_crf or key != "label_miou")
    ]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _align(rows: Sequence[Sequence[str]], left: bool = False) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 or left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
