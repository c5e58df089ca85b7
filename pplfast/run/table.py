"""The figures of a run as text."""

from collections.abc import Sequence
from typing import Any

from pplfast.report.view import VARIANTS

CHAIN = (
    ("seed", "cam_miou"),
    ("+CRF", "label_miou"),
    ("+walk", "walk_label_miou"),
    ("segmentation", "segmentation_miou"),
)
HEADS = ("variant", "CAM mIoU", "label mIoU", "after CRF", "background", "train", "CAMs", "labels")


def summary_table(summary: dict[str, Any]) -> str:
    """One line per variant. mIoU in percent, times in seconds."""
    rows = [HEADS]
    for variant in (key for key in VARIANTS if key in summary):
        part = summary[variant]
        seconds = part["seconds"]
        after = _figure(part["label_miou"]) if part["crf"] != "none" else "no CRF"
        rows.append(
            (
                variant,
                _figure(part["cam_miou"]),
                _figure(part["label_before_crf_miou"]),
                after,
                part["background"],
                f"{seconds['train']:.0f} s",
                f"{seconds['cams']:.0f} s",
                f"{seconds['labels'] + seconds.get('labels_crf', 0):.0f} s",
            )
        )
    val = summary["data"]["val"]
    scored = (
        f"scored on {val['list']}: {val['scored']} of {val['images']} images"
        if val["scored"]
        else (f"{val['list']}: {val['images']} images, no masks, nothing scored")
    )
    return "\n".join([*_align(rows), scored])


def chain_table(summary: dict[str, Any]) -> str:
    """From the seed to the segmentation network, one line per variant; "" for a run without refinement. In percent."""
    parts = {name: summary[name] for name in VARIANTS if name in summary}
    columns = [(head, key) for head, key in CHAIN if any(key in part for part in parts.values())]
    if len(columns) <= 2:
        return ""
    rows = [
        ("variant", *(head for head, _ in columns)),
        *((name, *(_figure(part.get(key)) for _, key in columns)) for name, part in parts.items()),
    ]
    test = summary["data"].get("test")
    note = f"segmentation on {test['list']}: {test['scored']} of {test['images']} images scored" if test else None
    return "\n".join([*_align(rows), *([note] if note else [])])


def seeds_table(result: dict[str, Any]) -> str:
    """One line per variant and seed, and the mean."""
    columns = [("CAM mIoU", "cam_miou"), ("label mIoU", "label_before_crf_miou"), ("final label mIoU", "label_miou")]
    columns += [(head, key) for head, key in CHAIN[2:] if any(key in mean for mean in result["mean"].values())]
    rows = [("variant", "seed", *(head for head, _ in columns))]
    for variant, mean in result["mean"].items():
        parts = [(str(seed), result["runs"][f"seed{seed}"][variant]) for seed in result["seeds"]]
        rows += [
            (variant, seed, *(_figure(part[key]) for _, key in columns)) for seed, part in [*parts, ("mean", mean)]
        ]
    return "\n".join(_align(rows))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
