"""FiftyOne's data set on disk."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from pplfast.data.classes import IGNORE
from pplfast.data.masks import SUFFIX
from pplfast.export.format import Format, LabelledImage
from pplfast.export.images import put_image, suffix_of
from pplfast.export.indexed import write_png

METADATA_FILE, SAMPLES_FILE = "metadata.json", "samples.json"
FIELD = "labels"  # of the samples
IMAGES = "data"
MASKS = f"fields/{FIELD}"  # where FiftyOne looks for files that a field of this name names


class FiftyOne(Format):
    """A FiftyOneDataset (https://docs.voxel51.com/user_guide/import_datasets.html#fiftyonedataset): `samples.json`, a
    Segmentation named "labels" for each image, whose mask is `fields/labels/<id>.png`, 8-bit grey; and
    `metadata.json`, which gives the values their class names as default mask targets.

    `metadata.json` has no version and no schema: those are of one version of FiftyOne, and every version takes a data
    set without. The images stay where they are, named by absolute paths; those of a data set in shards are written to
    `data/<id>.jpg`.
    """

    name = "fiftyone"
    tool = "FiftyOne: a data set with masks and class names, of the images where they are"
    read_with = "fiftyone.Dataset.from_dir('{out}', dataset_type=fiftyone.types.FiftyOneDataset)"

    def convert(self, item: LabelledImage) -> str:
        """The sample's JSON."""
        mask = f"{MASKS}/{item.id}{SUFFIX}"
        write_png(self.target.out / mask, item.labels())
        if isinstance(item.image, Path):
            image = os.path.abspath(item.image)
        else:
            image = f"{IMAGES}/{item.id}{suffix_of(item)}"
            put_image(item, self.target.out / image, link=False)
        return json.dumps({"filepath": image, "tags": [], FIELD: {"_cls": "Segmentation", "mask_path": mask}})

    def write(self, converted: Iterable[tuple[LabelledImage, str]]) -> None:
        with open(self.target.out / SAMPLES_FILE, "w", encoding="ascii") as file:
            file.write('{"samples": [')
            for number, (_, sample) in enumerate(converted):
                file.write(f"{',' * (number > 0)}\n{sample}")
            file.write("\n]}\n")
        classes = self.target.classes
        targets = {str(value): name for name, value in zip(classes.names, classes.ids, strict=True)}
        metadata = {
            "media_type": "image",
            "info": {"description": self.target.name, "default_mask_targets": targets | {str(IGNORE): "unsure"}},
        }
        (self.target.out / METADATA_FILE).write_text(f"{json.dumps(metadata, indent=2)}\n", encoding="ascii")
