"""The figures of a run as text."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from pplfast.evaluate.unscored import ALMOST_ALL
from pplfast.report.view import LABELS, VARIANTS

CHAIN = (
    ("seed", "cam_miou"),
    ("+CRF", "label_miou"),
    ("+walk", "walk_label_miou"),
    ("segmentation", "segmentation_miou"),
)
SCORES = (("CAM mIoU", "cam_miou"), ("labels, no CRF", "label_before_crf_miou"), ("labels, CRF", "label_miou"))


def closing(summary: dict[str, Any], out: Path) -> str:
    """What `pplfast run` says in the end: figures, what looks wrong, and where the labels and the report are."""
    parts = [
        summary_table(summary),
        chain_table(summary),
        facts_table(summary),
        "\n".join(f"warning: {text}" for text in summary["warnings"]),
        label_folders(summary, out),
    ]
    return "\n\n".join(part for part in parts if part) + f"\nreport: {out / 'report.html'}"


def summary_table(summary: dict[str, Any]) -> str:
    """One line per variant. mIoU in percent, times in seconds. Columns without any figure are left out."""
    parts = {name: summary[name] for name in VARIANTS if name in summary}
    columns = _known(SCORES, parts.values(), with_crf=any(part["crf"] != "none" for part in parts.values()))
    rows: list[Sequence[str]] = [("variant", *(head for head, _ in columns), "background", "train", "CAMs", "labels")]
    for variant, part in parts.items():
        seconds = part["seconds"]
        rows.append(
            (
                variant,
                *(_figure(part[key]) for _, key in columns),
                part["background"],
                f"{seconds['train']:.0f} s",
                f"{seconds['cams']:.0f} s",
                f"{seconds['labels'] + seconds.get('labels_crf', 0):.0f} s",
            )
        )
    val = summary["data"]["val"]
    scored = (
        f"mIoU in percent, scored on {val['list']}: {val['scored']} of {val['images']} images"
        if val["scored"]
        else f"{val['list']}: {val['images']} images, no masks, nothing scored"
    )
    return "\n".join([*_align(rows), scored])


def chain_table(summary: dict[str, Any]) -> str:
    """From the seed to the segmentation network, one line per variant; "" without refinement or scores. In percent."""
    parts = {name: summary[name] for name in VARIANTS if name in summary}
    columns = _known(CHAIN, parts.values(), with_crf=any(part["crf"] != "none" for part in parts.values()))
    if not any(head in ("+walk", "segmentation") for head, _ in columns):
        return ""
    rows = [
        ("variant", *(head for head, _ in columns)),
        *((name, *(_figure(part.get(key)) for _, key in columns)) for name, part in parts.items()),
    ]
    test = summary["data"].get("test")
    note = f"segmentation on {test['list']}: {test['scored']} of {test['images']} images scored" if test else None
    return "\n".join([*_align(rows), *([note] if note else [])])


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
        found = [source for source in reversed(LABELS) if (out / variant / source).is_dir()]
        rows += [(str(out / variant / source), LABELS[source]) for source in found]
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
    columns = _known((*SCORES, *CHAIN[2:]), means, with_crf)
    if not columns:
        return "no masks, nothing scored; each seed's report says what its labels show by themselves"
    rows = [("variant", "seed", *(head for head, _ in columns))]
    for variant, mean in result["mean"].items():
        parts = [(str(seed), result["runs"][f"seed{seed}"][variant]) for seed in result["seeds"]]
        rows += [
            (variant, seed, *(_figure(part.get(key)) for _, key in columns)) for seed, part in [*parts, ("mean", mean)]
        ]
    return "\n".join(_align(rows))


def _known(
    columns: Iterable[tuple[str, str]], parts: Collection[dict[str, Any]], with_crf: bool
) -> list[tuple[str, str]]:
    """The columns that some part has a figure for. Without a CRF the figure after it is the one before it, again."""
    return [
        (head, key)
        for head, key in columns
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
