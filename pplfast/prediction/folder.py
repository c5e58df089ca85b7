"""Labels of new images in a folder: the job, the classes beside the labels, and the page of the drawings."""

import os
from collections.abc import Sequence
from pathlib import Path

from pplfast.data.classes import ClassList
from pplfast.data.dataset import Dataset
from pplfast.errors import UserError
from pplfast.files import StrPath
from pplfast.jobs.manifest import read_manifest
from pplfast.jobs.options import DEFAULTS, EXIT_BAD, JobOptions, Outcome
from pplfast.jobs.record import Record
from pplfast.jobs.run import run_job
from pplfast.labels.segment import SegmentJob
from pplfast.models.segmentation import SegmentationNet
from pplfast.prediction.page import write_page
from pplfast.recipe import SegmentationConfig
from pplfast.storage import StorageError, join, write_file

CLASSES = "classes.txt"


class PredictJob(SegmentJob):
    title, command = "labels", "pplfast predict"

    def summarise(self, folder: Path, records: Sequence[Record]) -> None:
        """Of the folder, as its page is: what was labelled into it before is nobody's list any more."""
        super().summarise(folder, list(read_manifest(folder).values()))


def predict_images(
    model: SegmentationNet,
    classes: ClassList,
    dataset: Dataset,
    config: SegmentationConfig,
    out: StrPath,
    options: JobOptions = DEFAULTS,
    drawn: bool = False,
) -> Outcome:
    """As `segment_images` without image labels, and `out/classes.txt`, name=value in masks. drawn: also
    `out/<id>.overlay.jpg`, the labels over each image, and a page of them, `out/overlays.html`.

    UserError as there, and for drawings of a data set in shards whose outputs are no files.
    """
    if drawn and options.shards:
        raise UserError("--overlay: draws a file for each image, and the outputs of shards are shards; add --files")
    outcome = run_job(PredictJob(model, classes, dataset, config, drawn=drawn), out, options)
    if os.environ.get("RANK", "0") == "0" and outcome.exit_code in (0, EXIT_BAD):
        lines = "".join(f"{name}={value}\n" for name, value in zip(classes.names, classes.ids, strict=True))
        file = join(os.fspath(out), CLASSES)
        try:
            write_file(file, lines.encode())
        except StorageError as error:
            raise UserError(f"{file}: {error}") from None
        if drawn:
            write_page(out, classes)
    return outcome
