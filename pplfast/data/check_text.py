"""What the check of a data set has found, as text for a person."""

from collections import Counter
from collections.abc import Iterator

from pplfast.data.check import CheckReport
from pplfast.errors import one_line

# `Problem.kind` of images in words, in the order of the text.
KINDS = {
    "missing": "image file missing",
    "unreadable": "image file that cannot be read",
    "empty": "image file empty",
    "not-image": "not an image that is read",
    "rare-jpeg": "JPEG of a kind that is not decoded",
    "truncated": "image damaged or truncated",
    "channels": "channels that are no colours",
    "range": "deep values without a range",
    "too-large": "image too large to decode",
    "no-labels": "image without labels",
    "bad-labels": "labels not readable",
    "bad-mask": "mask not readable",
    "mask-size": "mask and image differ in size",
    "grey": "grey image, used as RGB",
    "converted": "colours converted",
    "frames": "several frames or pages, the first of which is used",
    "dark": "deep image that is dark over the full range",
    "orientation": "EXIF orientation, not applied",
    "no-class": "labels name none of the classes",
    "mask-ids": "mask holds values outside the class list",
    "mask-ignored": "mask of 255 alone, nothing of which is scored",
    "mask-no-class": "mask without the value of any class",
    "large": "image that takes much memory",
    "other-format": "file of another format, not used",
    "left-out": "image, link or folder left out",
}


def format_report(report: CheckReport) -> str:
    """The report as text: images per class, problems of the whole data set, then those of images, grouped by kind."""
    lines = [f"{report.name}: {report.images} images, {report.masks} with a mask", *_figures(report)]
    if report.counts is not None:
        width = max(map(len, report.counts))
        lines += [f"  {name:<{width}}  {count:>7} images" for name, count in report.counts.items()]
    lines += [one_line(f"warning: {remark}") for remark in report.remarks]
    of_images = [problem for problem in report.problems if problem.id]
    for problem in report.problems:
        if not problem.id:
            lines.append(one_line(f"{problem.severity}: {problem.path}: {problem.message}"))
    kinds = Counter(problem.kind for problem in of_images)
    for kind in [kind for kind in KINDS if kind in kinds]:
        same = [problem for problem in of_images if problem.kind == kind]
        lines.append(f"{same[0].severity}: {KINDS[kind]}: {kinds[kind]}")
        lines += [one_line(f"  {problem.id}: {problem.path}: {problem.message}") for problem in same]
    lines.append(f"{report.errors} errors, {report.warnings} warnings")
    return "\n".join(lines)


def _figures(report: CheckReport) -> Iterator[str]:
    """Lines on the labels, and on the images whose header can be read."""
    if report.labelled_by:
        yield report.labelled_by
    if report.sizes:
        smallest, median, largest = (f"{width} x {height}" for width, height in report.sizes.values())
        yield f"formats: {_listed(report.formats)}"
        yield f"decoders: {_listed(report.decoders)}"
        yield f"sizes: {smallest} to {largest}, median {median}" if smallest != largest else f"sizes: all {median}"
    if report.values is not None:
        yield "range of deep images: {:.10g} to {:.10g}".format(*report.values)
    elif report.deep:
        yield "range of deep images: full"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items())
