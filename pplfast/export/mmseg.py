"""MMSegmentation."""

from collections.abc import Iterable

import numpy as np

from pplfast.data.classes import BACKGROUND, IGNORE
from pplfast.data.masks import SUFFIX
from pplfast.export.format import Format, LabelledImage
from pplfast.export.images import put_image, suffix_of
from pplfast.export.indexed import colours, write_png

CONFIG_FILE = "dataset_config.py"
IMAGES, LABELS = "img_dir", "ann_dir"

_HEAD = """# For MMSegmentation 1.x: name this file in _base_, and write your pipeline into train_dataloader.dataset.
# Value 0 of the label PNGs is the background, 1 the first class, and 255 is ignored.
data_root = "{{{{ fileDirname }}}}"
metainfo = dict(
    classes={classes!r},
    palette={palette!r},
)
"""
_DATASET = """dict(
    type="mmseg.BaseSegDataset",
    data_root=data_root,
    data_prefix=dict(img_path="{images}", seg_map_path="{labels}"),
    img_suffix={suffix!r},
    seg_map_suffix={png!r},
    metainfo=metainfo,
    reduce_zero_label=False,
    ignore_index={ignore},
    pipeline=[],
)"""


class MMSegmentation(Format):
    """`img_dir/<id>.jpg`, `ann_dir/<id>.png` and `dataset_config.py`, as
    https://mmsegmentation.readthedocs.io/en/latest/advanced_guides/add_datasets.html has it.

    The label PNGs are grey and hold what MMSegmentation trains on: 0 background, then 1, 2, ... in the order of the
    classes, and 255, which it ignores. So "background" is the first of `classes`, and `reduce_zero_label` stays False:
    True would make the background ignored. A BaseSegDataset finds its images by one suffix; where there are several,
    the config joins one for each by ConcatDataset, which is MMEngine's and knows them only with their package's name.
    """

    name = "mmseg"
    tool = "MMSegmentation: img_dir, ann_dir and a config"
    has_images = True
    read_with = "mmseg.registry.DATASETS.build(mmengine.Config.fromfile('{out}/dataset_config.py').dataset)"

    def convert(self, item: LabelledImage) -> str:
        """The suffix of the image."""
        table = np.full(256, IGNORE, np.uint8)
        table[BACKGROUND] = 0
        table[list(self.target.classes.ids)] = np.arange(1, len(self.target.classes) + 1)
        write_png(self.target.out / LABELS / f"{item.id}{SUFFIX}", table[item.labels()])
        suffix = suffix_of(item)
        put_image(item, self.target.out / IMAGES / f"{item.id}{suffix}", self.target.link)
        return suffix

    def write(self, converted: Iterable[tuple[LabelledImage, str]]) -> None:
        suffixes = sorted({suffix for _, suffix in converted})
        classes = self.target.classes
        head = _HEAD.format(
            classes=("background", *classes.names),
            palette=[colours()[value].tolist() for value in (BACKGROUND, *classes.ids)],
        )
        parts = [
            _DATASET.format(images=IMAGES, labels=LABELS, suffix=suffix, png=SUFFIX, ignore=IGNORE)
            for suffix in suffixes
        ]
        whole = parts[0] if len(parts) == 1 else f'dict(type="ConcatDataset", datasets=[{", ".join(parts)}])'
        (self.target.out / CONFIG_FILE).write_text(f"{head}dataset = {whole}\n", encoding="utf-8")
