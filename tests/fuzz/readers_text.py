"""Recipes, lists, labels, classes, host files: what people write by hand."""

import json
from importlib import resources
from pathlib import Path

import data_sets

import fuzz.mutate as mutate
from fuzz.reader import Reader
from fuzz.trees import TOML_VALUES, json_tree, toml
from pplfast.cluster.hosts import read_hostfile
from pplfast.data.classes import parse_classes
from pplfast.data.coco import path_id, read_coco
from pplfast.data.coco_masks import coco_mask
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.recipe import Recipe, load_recipe, preset_names
from pplfast.recipe.reading import recipe_to_dict
from pplfast.train.deepspeed_file import apply_deepspeed_file

IMAGES = {"2007_000032": ("cat", "dog"), "2007_000039": ("person",), "sub.dir_1": ("cat",)}
CLASSES = "cat=8,dog=12,person=15"
ANNOTATION = "Annotations/2007_000032.xml"
LATIN_ANNOTATION = (
    b'<?xml version="1.0" encoding="iso-8859-1"?><annotation><object><name>dog</name></object></annotation>'
)


def _presets() -> tuple[bytes, ...]:
    return tuple(resources.files("pplfast.recipes").joinpath(f"{name}.toml").read_bytes() for name in preset_names())


def _whole_recipe() -> str:
    """Every key of a recipe with its usual value."""
    lines: list[str] = []

    def table(values: dict, name: str) -> None:
        plain = {key: value for key, value in values.items() if not isinstance(value, dict)}
        lines.extend([f"[{name}]"] if name else [])
        lines.extend(f"{key} = {_value(value)}" for key, value in plain.items() if key != "stages")
        for key, value in values.items():
            if isinstance(value, dict):
                table(value, f"{name}.{key}".strip("."))

    recipe = recipe_to_dict(load_recipe("demo"))
    table(recipe, "")
    for stage in recipe["stages"]:
        lines.extend(["[[stages]]", *(f"{key} = {_value(value)}" for key, value in stage.items())])
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return (
        {True: "true", False: "false"}[value]
        if isinstance(value, bool)
        else f'"{value}"'
        if isinstance(value, str)
        else repr(value)
    )


def _write(name: str, content: str | bytes):
    def prepare(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


def _argument(path: Path) -> str:
    """As the command line can give it: the system's words hold no NUL."""
    return path.read_bytes().decode("utf-8", "surrogateescape").replace("\0", "")


def _voc(folder: Path) -> None:
    data_sets.make_voc(folder, IMAGES)


def _plain_folder(folder: Path) -> None:
    for seed, name in enumerate(IMAGES):
        data_sets.save_image(folder / f"{name}.jpg", seed=seed)
    rows = [f"{name}.jpg,{';'.join(labels)}" for name, labels in IMAGES.items()]
    (folder / "labels.csv").write_text("\n".join(["image,labels", *rows]) + "\n")


def _read_list(folder: Path) -> object:
    dataset = open_dataset(DataConfig(str(folder), list="train", labels="none"))
    outside = [path for path in dataset.images if not path.resolve().is_relative_to(folder.resolve())]
    assert not outside, f"leaves the data folder: {outside[0]}"
    return dataset


def _read_csv(folder: Path) -> object:
    config = DataConfig(str(folder), labels=str(folder / "labels.csv"), classes=CLASSES)
    open_dataset(config, problems=[])
    return open_dataset(config)


def _read_xml(folder: Path) -> object:
    config = DataConfig(str(folder), list="train", labels="xml", classes=CLASSES, difficult=False)
    open_dataset(config, problems=[])
    return open_dataset(config)


def _read_coco(folder: Path) -> None:
    file = read_coco(folder / "coco.json")
    for image in file.images:
        assert file.find(path_id(image.name)) is image
        assert file.labels(image) <= set(range(len(file.categories)))
        if image.height * image.width < 1_000_000:  # the command has found the image file to be as large
            assert coco_mask(file, image).shape == (image.height, image.width)


def _finite(recipe: Recipe) -> None:
    json.dumps(recipe_to_dict(recipe), allow_nan=False)


COCO = {
    "images": [
        {"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "height": 5, "width": 6},
        {"id": "b", "file_name": "sub/b.jpg", "height": 20, "width": 30},
    ],
    "annotations": [
        {"id": 1, "image_id": 9, "category_id": 1, "iscrowd": 0, "segmentation": [[0.5, 0.5, 5, 1, 2.25, 4.5]]},
        {"id": 2, "image_id": 9, "category_id": 18, "iscrowd": 1,
         "segmentation": {"size": [5, 6], "counts": [4, 6, 20]}},
        {"id": 3, "image_id": 9, "category_id": 18, "segmentation": {"size": [5, 6], "counts": ";320004"}},
        {"id": "d", "image_id": "b", "category_id": 1, "iscrowd": 0, "bbox": [1, 2, 3, 4], "area": 12.5,
         "segmentation": [[-3, -4, 50, 2, 28, 19, 1, 18.5], [10, 10, 12, 10, 12, 12, 10, 12]]},
    ],
    "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person, standing"}],
    "info": {"year": 2014},
}  # fmt: skip
ENCODINGS = ("rot13", "zlib", "hex", "utf-16", "utf-7", "idna", "undefined")
# Each entity is ten times the one before.
LAUGHS = "".join(f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip("abcdefg", "bcdefgh", strict=True))
XML_WORDS = (
    *(f'<?xml version="1.0" encoding="{name}"?>' for name in ENCODINGS), '<?xml version="9.9"?>', "<?php",
    '<!DOCTYPE a [<!ENTITY x "y">]>', f'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">{LAUGHS}]>', "&h;", "&x;", "&#0;",
    "&#x110000;",
    '<!DOCTYPE a SYSTEM "file:///etc/passwd">', "<object>", "</object>", "<name>", "</name>", "<name/>", "<![CDATA[",
    "]]>",
    "<!--", '<a x="1" x="1" ', "<a>" * 30000, "xmlns:a='b'", "cat", "difficult", "1",
)  # fmt: skip


def readers() -> list[Reader]:
    recipe = _whole_recipe()
    return [
        Reader(
            "recipe",
            "recipe.toml",
            _write("recipe.toml", recipe),
            mutate.mixed(toml, toml, mutate.text(*TOML_VALUES)),
            lambda folder: _finite(load_recipe(folder / "recipe.toml")),
            more=_presets(),
        ),
        Reader(
            "recipe_set",
            "set.txt",
            _write("set.txt", "optim.lr=0.02"),
            mutate.text("optim", "stages", "model", "0", ".", *TOML_VALUES),
            lambda folder: _finite(load_recipe("demo", [_argument(folder / "set.txt")])),
            more=(
                b"stages.0.grid=4",
                b"cam.scales=[0.5, 1]",
                b'model.backbone="resnet50"',
                b'variants=["ppl"]',
                b"optim.zero = 1",
            ),
            named=("--set", "preset demo with"),
        ),
        Reader(
            "list",
            "ImageSets/Segmentation/train.txt",
            _voc,
            mutate.mixed(mutate.text("2007_000032", ".jpg", ".png", "/", " 1", "JPEGImages/")),
            _read_list,
            more=(
                b"/JPEGImages/2007_000032.jpg /SegmentationClass/2007_000032.png\n",
                b"2007_000032 1\n2007_000039 -1\n",
            ),
        ),
        Reader(
            "csv",
            "labels.csv",
            _plain_folder,
            mutate.mixed(mutate.text("cat", "dog", "cow", ";", ",", '"', "2007_000032.jpg")),
            _read_csv,
            more=(b'2007_000032,cat\n2007_000039.jpg,\nsub.dir_1,"dog;person"\n',),
        ),
        Reader(
            "coco",
            "coco.json",
            _write("coco.json", json.dumps(COCO)),
            mutate.mixed(json_tree, json_tree, json_tree, mutate.text("counts", "size", "[[1,1,9,9]]", "1e300", "-7")),
            _read_coco,
            more=(json.dumps({key: COCO[key] for key in ("images", "annotations", "categories")}).encode(),),
        ),
        Reader("xml", ANNOTATION, _voc, mutate.mixed(mutate.text(*XML_WORDS)), _read_xml, more=(LATIN_ANNOTATION,)),
        Reader(
            "classes_file",
            "classes.txt",
            _write("classes.txt", "cat\ndog\n# a comment\n"),
            mutate.mixed(mutate.text("cat=8", "=", "dog=255")),
            lambda folder: parse_classes(folder / "classes.txt"),
            more=(b"bus=6\ncar=7\n",),
        ),
        Reader(
            "classes",
            "classes.txt",
            _write("classes.txt", "cat=8,dog=12"),
            mutate.text("=", ",", "8", ".txt", "/"),
            lambda folder: parse_classes(_argument(folder / "classes.txt")),
            more=(b"cat,dog", b"bus=6,car=7"),
            named=("--classes", "no such file", "not a readable list of classes", "/etc/passwd"),
        ),
        Reader(
            "hostfile",
            "hosts",
            _write("hosts", "node-a slots=8\n# comment\nnode-b slots=4\n"),
            mutate.mixed(
                mutate.text(
                    "slots=", "node-a", "slots", "=", "-oProxyCommand=touch${IFS}/x slots=1", "root@host", "[::1]"
                )
            ),
            _read_hosts,
            more=(b"user@10.0.0.1 slots=1 # two\n",),
        ),
        Reader(
            "deepspeed",
            "ds.json",
            _write("ds.json", DEEPSPEED),
            mutate.mixed(json_tree, json_tree),
            _read_deepspeed,
            more=(b'{"communication_data_type": "bf16"}', b"{}"),
        ),
    ]


def _read_hosts(folder: Path) -> None:
    """Whatever is accepted is a name to ssh and to a shell."""
    for host in read_hostfile(str(folder / "hosts")):
        assert not host.name.startswith("-") and not set(host.name) & set(" '\"$`;&|<>()\\"), f"accepted: {host.name}"


DEEPSPEED = """{"zero_optimization": {"stage": 1, "reduce_bucket_size": 5e8}, "torch_autocast":
{"enabled": true, "dtype": "bfloat16"}, "communication_data_type": "fp32", "steps_per_print": 100}"""


def _read_deepspeed(folder: Path) -> None:
    apply_deepspeed_file(load_recipe("demo"), str(folder / "ds.json"))
    apply_deepspeed_file(load_recipe("demo"), str(folder / "ds.json"), "segmentation")
