"""CAMs, label tables, masks and images."""

import io
from functools import cache
from pathlib import Path

import data_sets
import labels_small
import numpy as np
import torch
from picture_files import LOSSLESS, OTHERS, picture
from PIL import Image

import fuzz.mutate as mutate
from fuzz import binary, pictures
from fuzz.pickles import HOSTILE, saved
from fuzz.reader import Reader, file_name
from pplfast.data.check import check_dataset
from pplfast.data.dataset import DataConfig, Dataset, open_dataset
from pplfast.data.decoding import decode_image, read_pixels
from pplfast.data.decoding_processes import decode_bytes
from pplfast.data.encoded import DAMAGED, read_encoded
from pplfast.data.image_info import DALI
from pplfast.data.images import BadImage, inspect_image, usable_image
from pplfast.data.masks import read_mask
from pplfast.data.pipelines import Decoder
from pplfast.data.value_range import measured_range
from pplfast.errors import UserError
from pplfast.evaluate import cams as evaluate_cams
from pplfast.evaluate import pngs as evaluate_pngs
from pplfast.evaluate import submission, unscored
from pplfast.evaluate.truth import Pair
from pplfast.jobs.screen import screen
from pplfast.labels.camfile import Cam, load_cam, save_cam, stored_size
from pplfast.labels.camfolder import CamFolder
from pplfast.labels.rules import FinishLabels, Scores
from pplfast.npy import load_npy_dict
from pplfast.recipe import LabelConfig

CLASSES = labels_small.CLASSES


def _small(folder: Path) -> Dataset:
    return labels_small.small_dataset(folder)


def _with_cams(folder: Path) -> None:
    labels_small.write_cams(folder / "cams", _small(folder))


def _read_cam(folder: Path) -> None:
    cam = load_cam(folder / "cams/im2.npz")
    assert np.isfinite(cam.maps).all() and np.isfinite(cam.full()).all(), "accepted: maps that are not finite"
    assert cam.classes.dtype.kind in "iu" and (cam.classes >= 0).all(), (
        "accepted: classes that are no positions in a list"
    )


def _one_with_cam(folder: Path) -> None:
    _set_of_one(folder)
    maps = np.random.default_rng(5).random((2, *stored_size(31, 44)))
    save_cam(folder / "cams/im.npz", Cam(np.array([0, 2]), maps, (31, 44)))


def _label_cam(folder: Path) -> None:
    """What a job does of one image: labels through the CRF, and confident ones."""
    dataset = _one(folder)
    cams, pixels = CamFolder(folder / "cams", dataset), read_pixels(dataset.images[0])
    assert cams.state(0)
    scores = Scores(dataset.images[0], pixels.shape[:2], cam=cams.file(0), pixels=pixels)
    for crf, unsure in (("probabilities", None), ("none", (0.05, 0.3))):
        FinishLabels(dataset.classes.ids, LabelConfig("threshold", 0.3, crf), unsure)(scores)


def _score_cam(folder: Path) -> object:
    pair = Pair("im2", folder / "cams/im2.npz", folder / "masks/im2.png", True)
    return evaluate_cams.count_chunk([pair], classes=CLASSES, edges=np.array([0.1, 0.3], np.float32))


def _with_label_table(folder: Path) -> None:
    data_sets.make_voc(folder, {"2007_000032": ("cat",), "2007_000039": ("dog",)})
    (folder / "cls_labels.npy").write_bytes(LABEL_TABLE)


VECTORS = np.eye(20, dtype=np.float32)[[7, 11]]
LABEL_TABLE = saved({"2007_000032": VECTORS[0], "2007_000039": VECTORS[1]})
OTHER_TABLES = (
    saved({2007000032: VECTORS[0].astype(np.uint8), 2007000039: VECTORS[1].astype(np.uint8)}),
    saved({"2007_000032": [0] * 7 + [1] + [0] * 12, "2007_000039": VECTORS[0]}),
)
CAM_TABLE = saved(
    {"keys": np.array([1, 2]), "cam": np.zeros((2, 8, 11), np.float32), "high_res": np.zeros((2, 31, 44), np.float32)}
)


def _read_label_table(folder: Path) -> object:
    config = DataConfig(str(folder), list="train", labels=str(folder / "cls_labels.npy"))
    open_dataset(config, problems=[])
    return open_dataset(config)


def _write_cam_table(folder: Path) -> None:
    (folder / "im.npy").write_bytes(CAM_TABLE)


def _picture(kind: str, mode: str = "RGB", **options: object) -> bytes:
    pixels = np.random.default_rng(3).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((44, 31), Image.Resampling.BICUBIC).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def _mask_bytes(mode: str) -> bytes:
    values = np.repeat(np.repeat(np.array([[0, 6], [8, 15]], np.uint8), 16, 0), 22, 1)[:31]
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _set_of_one(folder: Path) -> None:
    (folder / "masks").mkdir()
    (folder / "im.jpg").write_bytes(_picture("JPEG"))
    (folder / "masks/im.png").write_bytes(_mask_bytes("P"))
    (folder / "truth.png").write_bytes(_mask_bytes("L"))
    (folder / "labels.csv").write_text("im.jpg,bus\n")


def _one(folder: Path) -> Dataset:
    classes = ",".join(f"{name}={value}" for name, value in zip(CLASSES.names, CLASSES.ids))
    return open_dataset(
        DataConfig(str(folder), labels=str(folder / "labels.csv"), classes=classes, masks=str(folder / "masks"))
    )


def _read_mask(folder: Path) -> object:
    return read_mask(folder / "masks/im.png")


def _check_one(folder: Path) -> None:
    """Everything that `pplfast data check` says is a line about its image."""
    report = check_dataset(_one(folder), threads=1)
    for problem in report.problems:
        assert len(problem.message.splitlines()) == 1, problem.message


def _score_label(folder: Path) -> None:
    path = folder / "masks/im.png"
    evaluate_pngs.count_chunk([Pair("im", path, folder / "truth.png", True)], CLASSES)


def _label_facts(folder: Path) -> object:
    return unscored.count_chunk([unscored._Image(folder / "masks/im.png", (6,))], CLASSES)


def _submit(folder: Path) -> object:
    return submission._checked(folder / "masks/im.png", folder / "im.jpg")


def _inspect(folder: Path) -> None:
    path = folder / "im.jpg"
    for look in (inspect_image, decode_image, lambda path: screen(path, False, 10_000_000)):
        try:
            look(path)
        except BadImage as error:
            raise UserError(f"{path}: {error}") from error


@cache  # in each process: its threads would not survive a fork
def _decoder() -> Decoder:
    return Decoder(1, 1, torch.device("cpu"))


def _decode(folder: Path) -> None:
    """As the loaders do."""
    path = folder / "im.jpg"
    try:
        info, encoded = usable_image(path, None), read_encoded(path)
    except BadImage as error:
        raise UserError(f"{path}: {error}") from error
    decoded = _decoder()([encoded])[0] if info.decoder == DALI else decode_bytes(encoded.tobytes(), info, None)
    if (
        decoded is None or isinstance(decoded, str) or decoded.shape != (info.height, info.width, 3)
    ):  # of which a job says that it has changed
        raise UserError(f"{path}: {DAMAGED}")


def _measure(folder: Path) -> object:
    """A list of one deep image; a damaged one does not count."""
    measured_range([folder / "im.jpg"])
    return read_pixels(folder / "im.jpg", (0.0, 1000.0))


def _read_picture(folder: Path) -> object:
    return read_pixels(folder / "im.jpg")


def _folder_of_one(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "name").write_text("im.jpg")


def _read_name(folder: Path) -> None:
    """A plain folder of images, one of that name."""
    name = file_name((folder / "name").read_bytes())
    (folder / "data" / name).write_bytes(_picture("JPEG"))
    for problem in check_dataset(open_dataset(DataConfig(str(folder / "data"), labels="none")), threads=1).problems:
        assert problem.message.isprintable(), repr(problem.message)


def readers() -> list[Reader]:
    npz = mutate.mixed(binary.npz, binary.npz)
    table = mutate.mixed(binary.npy_pickle, binary.npy_pickle)
    png, jpeg = mutate.mixed(pictures.png, pictures.png), mutate.mixed(pictures.jpeg, pictures.jpeg)
    masks = (_mask_bytes("L"),)
    jpegs = (_picture("JPEG", "L"), _picture("JPEG", progressive=True, optimize=True), _picture("JPEG", exif=_exif()))
    others = (_picture("PNG"), _picture("TIFF"), _picture("TIFF", compression="tiff_lzw"), _picture("PNG", "P"),
        _picture("GIF"),
                _picture("BMP"), _picture("WEBP"))  # fmt: skip
    tiff = mutate.mixed(pictures.tiff, pictures.tiff)
    forms: dict[str, tuple[bytes, ...]] = {"tif": (), "png": (), "other": ()}
    for suffix, _, encode, _ in (*LOSSLESS.values(), *OTHERS.values()):
        kind = "tif" if suffix == "tiff" else suffix if suffix in forms else "other"
        forms[kind] += (encode(picture((40, 24))),)
    deep = tuple(
        OTHERS[name][2](picture((40, 24))) for name in ("grey 16-bit TIFF", "grey 16-bit PNG", "RGBA 16-bit PNG")
    )
    any_picture = mutate.mixed(pictures.png, pictures.jpeg, mutate.plain)
    return [
        Reader("cam_npz", "cams/im2.npz", _with_cams, npz, _read_cam),
        Reader("cam_npz_label", "cams/im.npz", _one_with_cam, npz, _label_cam),
        Reader("cam_npz_eval", "cams/im2.npz", _with_cams, npz, _score_cam),
        Reader(
            "cam_npy",
            "im.npy",
            _write_cam_table,
            table,
            lambda folder: load_npy_dict(folder / "im.npy"),
            hostile=HOSTILE,
        ),
        Reader(
            "cls_labels",
            "cls_labels.npy",
            _with_label_table,
            table,
            _read_label_table,
            more=OTHER_TABLES,
            hostile=HOSTILE,
        ),
        Reader(
            "image_name",
            "name",
            _folder_of_one,
            mutate.text(".jpg", ".JPEG", ".png", "im"),
            _read_name,
            more=(b"a b.jpeg",),
            named=("data:",),
            writes=True,
        ),
        Reader("mask", "masks/im.png", _set_of_one, png, _read_mask, more=masks),
        Reader("mask_check", "masks/im.png", _set_of_one, png, _check_one, more=masks),
        Reader("label_eval", "masks/im.png", _set_of_one, png, _score_label, more=masks),
        Reader("label_facts", "masks/im.png", _set_of_one, png, _label_facts, more=masks),
        Reader("label_submit", "masks/im.png", _set_of_one, png, _submit, more=masks),
        Reader(
            "jpeg",
            "im.jpg",
            _set_of_one,
            jpeg,
            _inspect,
            more=jpegs[:2],
            hostile=(*jpegs[2:],),
        ),
        Reader("jpeg_decode", "im.jpg", _set_of_one, jpeg, _decode, more=jpegs),
        Reader("jpeg_check", "im.jpg", _set_of_one, jpeg, _check_one, more=jpegs),
        Reader("tiff", "im.jpg", _set_of_one, tiff, _read_picture, more=forms["tif"]),
        Reader("tiff_decode", "im.jpg", _set_of_one, tiff, _decode, more=forms["tif"]),
        Reader("png_decode", "im.jpg", _set_of_one, png, _decode, more=forms["png"]),
        Reader("other_formats", "im.jpg", _set_of_one, mutate.mixed(mutate.plain), _decode, more=forms["other"]),
        Reader("deep_range", "im.jpg", _set_of_one, mutate.mixed(pictures.png, pictures.tiff), _measure, more=deep),
        Reader("image", "im.jpg", _set_of_one, any_picture, _read_picture, more=(*jpegs, *others)),
    ]


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif
