"""The CAM files of a list, as an input: whose classes they are of, and what each image's file is."""

import os
from pathlib import Path
from typing import Any

from pplfast.data.classes import ClassList
from pplfast.data.dataset import Dataset
from pplfast.data.images import BadImage
from pplfast.data.stored import Fetched, Member, Stored
from pplfast.errors import UserError
from pplfast.files import StrPath
from pplfast.jobs.folder import find_outputs, read_settings
from pplfast.jobs.manifest import read_manifest
from pplfast.jobs.output_shards import OutputShards, holds_shards
from pplfast.jobs.record import DONE
from pplfast.labels.camfile import SUFFIX, Cam, load_cam
from pplfast.storage import StorageError

COMMAND = "pplfast cam"
CLOCKS = 2.0  # seconds that a file server's clock may be ahead of a rank's


class CamFolder:
    """A folder of files, or of shards, which may be a URL. Raises UserError for one without the CAMs of the data set,
    and for CAMs of other classes."""

    def __init__(self, folder: StrPath, dataset: Dataset) -> None:
        self.path, self._dataset = folder, dataset
        self.settings = read_settings(folder)
        self._shards = OutputShards(folder, dataset, COMMAND) if holds_shards(folder, COMMAND) else None
        self._failed = {} if self._shards else find_outputs(folder, dataset.ids, SUFFIX, COMMAND)
        check_classes(folder, dataset.classes)
        self._records = {} if self._shards else read_manifest(Path(folder))

    def file(self, index: int) -> Path | Member:
        if self._shards:
            return self._shards.part(index, SUFFIX)
        return Path(self.path) / f"{self._dataset.ids[index]}{SUFFIX}"

    def state(self, index: int) -> dict[str, Any]:
        """What tells one version of an image's file from another: its checksum, where the job that made it noted it,
        else its size and time of change. Raises BadImage where there is none."""
        if self._shards:
            if self._shards.bad[index]:
                raise BadImage("cam", f"has no CAM: {self._shards.reason(index)}")
            return {"cam": self._shards.state(index)}
        name = self._dataset.ids[index]
        path = Path(self.path) / f"{name}{SUFFIX}"
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
            file: Path | Stored | Fetched = self.file(index)
            if isinstance(file, Stored):
                file = Fetched(file, file.read())
            return load_cam_of(file, size, len(self._dataset.classes))
        except StorageError as error:  # tried again by a later run, unlike a file that is damaged
            return BadImage("unreadable", f"{file}: {error}")
        except UserError as error:
            return BadImage("cam", str(error))


def load_cam_of(path: Path | Stored | Fetched, size: tuple[int, int], classes: int) -> Cam:
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
