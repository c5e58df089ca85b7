"""The CAM files of a list, as an input: whose classes they are of, and what each image's file is."""

import os
from pathlib import Path
from typing import Any

from pplfast.data.classes import ClassList
from pplfast.data.dataset import Dataset
from pplfast.data.images import BadImage
from pplfast.errors import UserError
from pplfast.files import StrPath
from pplfast.jobs.folder import find_outputs, read_settings
from pplfast.jobs.manifest import read_manifest
from pplfast.jobs.record import DONE
from pplfast.labels.camfile import SUFFIX, Cam, load_cam

CLOCKS = 2.0  # seconds that a file server's clock may be ahead of a rank's


class CamFolder:
    """Raises UserError for a folder without the CAMs of the data set, and for CAMs of other classes."""

    def __init__(self, folder: StrPath, dataset: Dataset) -> None:
        self.path, self._dataset = Path(folder), dataset
        self._failed = find_outputs(folder, dataset.ids, SUFFIX, "pplfast cam")
        self.settings = read_settings(folder)
        check_classes(folder, dataset.classes)
        self._records = read_manifest(self.path)

    def file(self, index: int) -> Path:
        return self.path / f"{self._dataset.ids[index]}{SUFFIX}"

    def state(self, index: int) -> dict[str, Any]:
        """What tells one version of an image's file from another: its checksum, where the job that made it noted it,
        else its size and time of change. Raises BadImage where there is none."""
        name, path = self._dataset.ids[index], self.file(index)
        if name in self._failed:
            raise BadImage("cam", f"has no CAM: {self._failed[name]}")
        try:
            found = os.stat(path)
        except OSError as error:
            raise BadImage("cam", f"{path} cannot be read ({error.strerror}); make it with `pplfast cam`") from None
        record = self._records.get(name, {})
        for file in record.get("files", ()) if record.get("state") == DONE else ():
            as_recorded = file["bytes"] == found.st_size and found.st_mtime <= record.get("time", 0) + CLOCKS
            if file["file"] == f"{name}{SUFFIX}" and as_recorded:
                return {"cam": file["sha256"]}
        return {"cam": [found.st_size, found.st_mtime_ns]}

    def load(self, index: int, size: tuple[int, int]) -> Cam | BadImage:
        """The CAM of an image of that size (H, W), or what is wrong with its file."""
        try:
            return load_cam_of(self.file(index), size, len(self._dataset.classes))
        except UserError as error:
            return BadImage("cam", str(error))


def load_cam_of(path: Path, size: tuple[int, int], classes: int) -> Cam:
    """The CAM file of an image of that size (H, W). UserError where it is missing, damaged or of another size."""
    cam = load_cam(path, classes)
    if cam.size != size:
        raise UserError(
            f"{path}: is for {cam.size[1]} x {cam.size[0]} pixels, the image has {size[1]} x {size[0]}; make the CAM "
            "again"
        )
    return cam


def check_classes(folder: StrPath, classes: ClassList) -> None:
    """CAM files hold places in a class list. Raises UserError where that list is known, and is not `classes`."""
    was = (read_settings(folder) or {}).get("class_names")
    if was is not None and was != list(classes.names):
        names = ",".join(map(str, was)) if isinstance(was, list) else repr(was)
        raise UserError(
            f"{folder}: was made for the classes {names}, not {','.join(classes.names)}; give --classes the same list, "
            "in the same order"
        )
