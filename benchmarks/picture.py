"""The README's picture from a run of `make demo`: images, their labels in words, CAMs, pixel labels.

    python -m pplfast.benchmarks.picture runs/demo

Which images are shown is a rule, not a choice: of those with two classes, the ones whose labels are nearest the median.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pplfast.data.classes import IGNORE
from pplfast.data.dataset import Dataset
from pplfast.data.masks import read_mask
from pplfast.errors import UserError
from pplfast.files import atomic_path
from pplfast.labels.camfile import load_cam
from pplfast.labels.overlay import display_palette, labels_over
from pplfast.report.images import heat_over, read_photo
from pplfast.report.view import read_run

OUT = Path(__file__).resolve().parent.parent / "docs" / "picture.png"
CLASSES = 2  # of an image that is shown: one CAM each
WIDTH, TILE, GAP, MARGIN, HEAD = 1200, 224, 16, 24, 44  # pixels
# A dark card: the same on a page of either theme.
CARD, TEXT, SOFT = (22, 27, 34), (230, 234, 240), (154, 166, 182)


def compose(run: Path, rows: int, variant: str = "ppl") -> Image.Image:
    """RGB. Raises UserError for a run without masks, or with too few images of two classes."""
    view = read_run(run)
    if view.dataset is None:
        raise UserError(f"{run}: {view.dataset_error}")
    folder = run / variant
    labels = next((folder / name for name in ("labels_crf", "labels") if (folder / name).is_dir()), None)
    if labels is None:
        raise UserError(f"{folder}: holds no labels; make the run with --variants {variant}")
    shown = typical(view.dataset, labels, rows)
    picture = Image.new("RGB", (WIDTH, HEAD + MARGIN + rows * TILE + (rows - 1) * GAP), CARD)
    draw, columns = ImageDraw.Draw(picture), _columns()
    heads = ("image", "its labels", *["class activation map"] * CLASSES, "pixel labels")
    for x, head in zip(columns, heads, strict=True):
        draw.text((x, HEAD - 12), head, SOFT, _font(16), anchor="ls")
    for row, index in enumerate(shown):
        _row(picture, HEAD + row * (TILE + GAP), view.dataset, index, folder / "cams", labels)
    return picture


def typical(dataset: Dataset, labels: Path, count: int) -> list[int]:
    """The images with CLASSES classes whose mean IoU over these is nearest the median, in the order of the list."""
    scores = {
        index: _image_iou(read_mask(mask), read_mask(labels / f"{name}.png"))
        for index, (name, mask) in enumerate(zip(dataset.ids, dataset.masks, strict=True))
        if mask is not None and dataset.labels is not None and int(dataset.labels[index].sum()) == CLASSES
    }
    if len(scores) < count:
        raise UserError(
            f"{dataset.name}: {len(scores)} images with a mask and {CLASSES} classes; at least {count} needed"
        )
    median = float(np.median(list(scores.values())))
    return sorted(sorted(scores, key=lambda index: abs(scores[index] - median))[:count])


def _image_iou(truth: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the true classes of one image, background included."""
    known = truth != IGNORE
    values = [value for value in np.unique(truth) if value != IGNORE]
    parts = [((truth == value) & known, (labels == value) & known) for value in values]
    return float(np.mean([(a & b).sum() / (a | b).sum() for a, b in parts]))


def _columns() -> list[int]:
    """Left edges: image, words, CAMs, labels."""
    words = WIDTH - 2 * MARGIN - (CLASSES + 2) * (TILE + GAP)
    return [
        MARGIN,
        MARGIN + TILE + GAP,
        *(MARGIN + TILE + 2 * GAP + words + i * (TILE + GAP) for i in range(CLASSES + 1)),
    ]


def _row(picture: Image.Image, top: int, dataset: Dataset, index: int, cams: Path, labels: Path) -> None:
    draw, columns, name = ImageDraw.Draw(picture), _columns(), dataset.ids[index]
    photo = read_photo(dataset.images[index], dataset.values).pixels
    cam = load_cam(cams / f"{name}.npz")
    height, width = photo.shape[:2]
    mask = np.asarray(
        Image.fromarray(read_mask(labels / f"{name}.png")).resize((width, height), Image.Resampling.NEAREST)
    )
    tiles = [photo, *(heat_over(photo, values) for values in cam.maps), labels_over(photo, mask)]
    for x, tile in zip((columns[0], *columns[2:]), tiles, strict=True):
        picture.paste(_fitted(tile), (x, top))
    words = [dataset.classes.names[column] for column in cam.classes]
    colours = [tuple(int(v) for v in display_palette()[dataset.classes.ids[column]]) for column in cam.classes]
    for place, (word, colour) in enumerate(zip(words, colours, strict=True)):
        y = top + TILE // 2 + 36 * place - 18 * (len(words) - 1)
        draw.rounded_rectangle((columns[1], y - 8, columns[1] + 16, y + 8), 4, colour)
        draw.text((columns[1] + 26, y), word, TEXT, _font(22), anchor="lm")
        _tag(draw, (columns[2 + place] + 8, top + TILE - 8), word)
    draw.text((columns[2] - 2 * GAP, top + TILE // 2), "\N{RIGHTWARDS ARROW}", SOFT, _font(36), anchor="rm")


def _fitted(tile: np.ndarray) -> Image.Image:
    """The middle square of a picture, TILE pixels wide."""
    height, width = tile.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return (
        Image.fromarray(tile).crop((left, top, left + side, top + side)).resize((TILE, TILE), Image.Resampling.LANCZOS)
    )


def _tag(draw: ImageDraw.ImageDraw, corner: tuple[int, int], word: str) -> None:
    """A word on a dark plate; corner: its lower left."""
    box = draw.textbbox(corner, word, _font(15), anchor="ls")
    draw.rounded_rectangle((box[0] - 6, corner[1] - 20, box[2] + 6, corner[1] + 4), 4, CARD)
    draw.text((corner[0], corner[1] - 3), word, TEXT, _font(15), anchor="ls")


def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as matplotlib brings it: the same on every machine."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pplfast.benchmarks.picture",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run with variant ppl and masks")
    parser.add_argument("--rows", type=int, default=2, metavar="N", help="images (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE.png", help="default: docs/picture.png")
    args = parser.parse_args(arguments)
    try:
        picture = compose(args.run, args.rows)
        with atomic_path(args.out) as temporary:
            palette = picture.quantize(256, Image.Quantize.MEDIANCUT, kmeans=4)
            reduced = picture.quantize(
                256, palette=palette, dither=Image.Dither.FLOYDSTEINBERG
            )  # a third of true colour
            reduced.save(temporary, "PNG", optimize=True)
    except UserError as error:
        print(f"picture: error: {error}", file=sys.stderr)
        return 2
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
