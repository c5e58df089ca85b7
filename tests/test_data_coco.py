"""COCO's annotation files: what is read from them, which image a file name means, and masks equal to pycocotools'."""

import json
import tracemalloc

import numpy as np
import pytest
from data_sets import SIZE, save_image

from pplfast.cli import main
from pplfast.data.classes import ClassList
from pplfast.data.coco import read_coco
from pplfast.data.coco_masks import coco_mask
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.data.masks import read_mask
from pplfast.errors import UserError

WIDTH, HEIGHT = SIZE
CATEGORIES = ((1, "person"), (18, "dog"))
LEFT, RIGHT = [0, 0, 20, 0, 20, 30, 0, 30], [20, 0, 40, 0, 40, 30, 20, 30]  # halves of an image


def images(*names: str, first: int = 1) -> list[dict]:
    return [
        {"id": first + place, "file_name": name, "height": HEIGHT, "width": WIDTH} for place, name in enumerate(names)
    ]


def annotation(id: int, category: int = 1, segmentation=((1, 1, 9, 1, 9, 9),), image=1, **more) -> dict:
    drawn = [list(part) for part in segmentation] if isinstance(segmentation, tuple) else segmentation
    return {"id": id, "image_id": image, "category_id": category, "segmentation": drawn, "iscrowd": 0, **more}


def content(annotations=(), shown=None, categories=CATEGORIES) -> dict:
    return {
        "images": images("a.jpg") if shown is None else shown,
        "annotations": list(annotations),
        "categories": [{"id": id, "name": name} for id, name in categories],
    }


@pytest.fixture
def save(tmp_path):
    def write(*parts, **named):
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content(*parts, **named)))
        return path

    return write


def refused(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message and "instances.json" in message and len(message) < 600, message
    return message


# Reading


def test_a_file_that_is_not_there_is_named_with_what_it_should_be(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: no such file; give --labels a COCO \.json"):
        read_coco(tmp_path / "none.json")


def test_images_and_categories_are_read_in_their_order(save):
    shown = [{"id": "x", "file_name": "b/1.jpg", "height": 3, "width": 4}, *images("a.jpg")]
    file = read_coco(save((), shown, ((18, "dog"), (1, "person"))))
    assert [(image.id, image.name, image.height, image.width) for image in file.images] == [
        ("x", "b/1.jpg", 3, 4),
        (1, "a.jpg", HEIGHT, WIDTH),
    ]
    assert file.categories == ClassList(("person", "dog"), (1, 18)) and file.column_of == {1: 0, 18: 1}


@pytest.mark.parametrize("ids", [(0, 1), (3, 255), (7, 10**400)])
def test_categories_whose_ids_are_no_values_of_masks_count_from_1(save, ids):
    file = read_coco(save((annotation(1, ids[1]),), None, ((ids[1], "dog"), (ids[0], "cat"))))
    assert file.categories == ClassList(("cat", "dog"), (1, 2)) and file.labels(file.images[0]) == {1}


def test_names_lose_what_separates_classes_elsewhere(save):
    file = read_coco(save((), None, ((1, "person; adult,\x1b[2J"), (2, " a=b "), (3, "größe"))))
    assert file.categories.names == ("person adult [2J", "a b", "größe")


@pytest.mark.parametrize("names, word", [(("cat", "cat"), "twice"), (("a;b", "a b"), "twice"), ((",", "b"), "empty")])
def test_names_that_are_no_classes_are_refused(save, names, word):
    assert word in refused(read_coco, save((), None, enumerate(names, 1)))


def test_the_background_is_a_category_only_of_files_that_do_not_use_it(save):
    categories = ((0, "_background_"), (1, "cat"))
    assert read_coco(save((), None, categories)).categories == ClassList(("cat",), (1,))
    message = refused(read_coco, save((annotation(1, 0),), None, categories))
    assert "'_background_' is no class" in message


def test_an_image_has_the_labels_of_its_objects_and_crowds(save):
    shown = images("a.jpg", "b.jpg", "c.jpg")
    objects = (annotation(1), annotation(2), annotation(3, 18, image=2), annotation(4, 1, image=2, iscrowd=1))
    file = read_coco(save(objects, shown))
    assert [file.labels(image) for image in file.images] == [{0}, {0, 1}, set()]
    assert [found.id for found in file.annotations[1]] == [1, 2] and 3 not in file.annotations


def test_outlines_that_cannot_be_drawn_do_not_keep_the_labels_from_being_read(save):
    broken = ([["x"]], {"counts": [-1]}, None, "x", 5, [[10**400]], [1.5], {"counts": [2.5], "size": None})
    file = read_coco(save([annotation(id, segmentation=outline) for id, outline in enumerate(broken)]))
    assert file.labels(file.images[0]) == {0}
    assert read_coco(save([{"id": 1, "image_id": 1, "category_id": 18}])).labels(file.images[0]) == {1}


def test_annotations_of_images_that_are_not_there_are_counted(save):
    file = read_coco(save((annotation(1), annotation(2, image=7), annotation(3, image="1"))))
    assert file.orphans == 2 and file.labels(file.images[0]) == {0}
    assert "none of its 2 annotations" in refused(read_coco, save((annotation(2, image=7), annotation(3, image="1"))))


@pytest.mark.parametrize(
    "place, value, words",
    [
        (("images", 0), 5, "images is a list, and must be a list of objects"),
        (("images", 0, "id"), 1.5, "images[0].id is 1.5"),
        (("images", 0, "id"), True, "images[0].id is True"),
        (("images", 0, "id"), None, "images[0].id is None"),
        (("images", 0, "file_name"), 3, "images[0].file_name is 3, and must be a text"),
        (("images", 0, "file_name"), "\ud800", "a name that a file can have"),
        (("images", 0, "height"), 0, "images[0].height is 0"),
        (("images", 0, "width"), float("nan"), "images[0].width is nan"),
        (("images", 0, "width"), 10**400, "images[0].width is a huge number"),
        (("images", 1, "id"), 1, "images[1].id is 1, and must be of no other image"),
        (("images", 1, "file_name"), "./a.png", "must be of no other image"),
        (("categories",), [], "categories is a list, and must be a list of at least one"),
        (("categories", 0, "id"), "1", "categories[0].id is '1', and must be a whole number"),
        (("categories", 1, "id"), 1, "categories[1].id is 1, and must be of no other category"),
        (("categories", 0, "name"), None, "categories[0].name is None"),
        (("annotations", 0), [], "annotations[0] is a list"),
        (("annotations", 0, "id"), [], "annotations[0].id is a list"),
        (("annotations", 0, "image_id"), {}, "annotations[0].image_id is a dict"),
        (("annotations", 0, "category_id"), 99, "annotations[0].category_id is 99"),
        (("annotations", 0, "category_id"), [1], "annotations[0].category_id is a list"),
        (("annotations", 0, "iscrowd"), float("nan"), "annotations[0].iscrowd is nan, and must be 0 or 1"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(save, place, value, words):
    path = save((annotation(1),), images("a.jpg", "b.jpg"))
    tree = json.loads(path.read_text())
    inner = tree
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(tree))
    assert words in refused(read_coco, path)


@pytest.mark.parametrize("key", ["id", "image_id", "category_id"])
def test_a_missing_key_of_an_annotation_is_named(save, key):
    broken = annotation(1)
    del broken[key]
    assert f"annotations[0].{key} is missing" in refused(read_coco, save((broken,)))


@pytest.mark.parametrize(
    "value, words",
    [
        ([annotation(1)], "but a list; expected an object with the lists images, annotations, categories"),
        ({"images": [], "categories": []}, "has no list annotations"),
        ({"shapes": [], "images": {}}, "has no list images and no list annotations and no list categories"),
        ({"images": [], "annotations": [{"image_id": 1, "id": 2, "caption": "A dog."}]}, "a COCO file of captions"),
        ({**content(), "annotations": [{"image_id": 1, "segments_info": []}]}, "a panoptic segmentation"),
    ],
)
def test_other_json_files_are_told_what_is_expected(tmp_path, value, words):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(value))
    message = refused(read_coco, path)
    assert words in message and "like instances_val2017.json" in message


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a":' * 50_000, "7" * 5000, "\xff\xfe", "{'images': []}"])
def test_what_is_no_json_is_refused(tmp_path, text):
    path = tmp_path / "instances.json"
    path.write_bytes(text.encode("latin-1"))
    assert "not valid JSON" in refused(read_coco, path)


def test_a_file_that_is_not_there_or_a_folder_is_refused(tmp_path):
    assert "no such file" in refused(read_coco, tmp_path / "instances.json")
    (tmp_path / "instances.json").mkdir()
    assert "is a folder" in refused(read_coco, tmp_path / "instances.json")


def test_reading_takes_a_few_times_the_size_of_the_file(save):
    outline = np.random.default_rng(0).uniform(0, 30, 60).round(2).tolist()
    path = save([annotation(id, segmentation=[outline]) for id in range(2000)])
    tracemalloc.start()
    try:
        read_coco(path)
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    size = path.stat().st_size
    assert size > 800_000 and most < 5 * size and kept < 2 * size


# The image that a name means


@pytest.mark.parametrize(
    "name, id",
    [
        ("a.jpg", "a"),
        ("sub/a.jpg", "sub/a"),
        ("./sub//a.JPEG", "sub/a"),
        ("sub\\a.png", "sub/a"),
        ("train2017/000000000009.jpg", "000000000009"),
        ("000000000009.jpg", "train2017/000000000009"),
        ("old/000000000009.jpg", "new/000000000009"),
        ("COCO_train2014_000000000009.jpg", "000000000009"),
        ("train2014/COCO_train2014_000000000009.jpg", "images/9"),
        ("000000000009.jpg", "COCO_train2014_000000000009"),
        ("000000000000.jpg", "COCO_val2014_000000000000"),
        ("a.b", "a.b"),
    ],
)
def test_an_image_is_found_by_its_path_its_name_or_its_number(save, name, id):
    file = read_coco(save((), images("other.jpg", name, "IMG_12.jpg", "7.jpg")))
    assert file.find(id) is file.images[1]


@pytest.mark.parametrize("id", ["b", "a/b", "IMG_0008", "DSC_12", "sub/x", "12", "", "/", "12_"])
def test_an_image_is_not_found_by_less(save, id):
    shown = images("a.jpg", "one/x.jpg", "two/x.jpg", "IMG_12.jpg", "12_12.jpg", "8_.jpg")
    assert read_coco(save((), shown)).find(id) is None


def test_a_path_comes_before_a_name(save):
    file = read_coco(save((), images("one/x.jpg", "x.jpg", "two/x.jpg")))
    assert [file.find(id) for id in ("one/x", "x", "two/x", "three/x")] == [*file.images, None]


def test_categories_are_chosen_by_name_or_id(save):
    file = read_coco(save((), None, ((5, "cat"), (9, "traffic light"), (7, "5"))))
    assert file.columns("") == (0, 1, 2) and file.columns(" traffic light, cat,9,") == (2, 0)
    assert file.columns("5,7") == (1,)  # a name comes before an id
    assert "'trafic light' is neither a category" in refused(file.columns, "trafic light")
    assert "did you mean traffic light?" in refused(file.columns, "trafic light")
    assert "it has cat, 5, traffic light" in refused(file.columns, "8")


# Masks


@pytest.fixture(scope="session")
def coco_tools():
    """A function: pycocotools' mask of one annotation, bool (H, W)."""
    tools = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed: make installs it")

    def mask(segmentation, height, width):
        coco = tools.COCO()
        coco.imgs = {1: {"height": height, "width": width}}
        return coco.annToMask({"image_id": 1, "segmentation": segmentation}).astype(bool)

    return mask


@pytest.fixture
def drawn(tmp_path):
    """A function: ours, of the same arguments."""

    def mask(segmentation, height=HEIGHT, width=WIDTH, **more):
        path = tmp_path / "instances.json"
        shown = [{"id": 1, "file_name": "a.jpg", "height": height, "width": width}]
        path.write_text(json.dumps(content([annotation(77, segmentation=segmentation, **more)], shown)))
        file = read_coco(path)
        found = coco_mask(file, file.images[0])
        assert found.dtype == np.uint8 and found.shape == (height, width) and found.flags.c_contiguous
        return found == 1

    return mask


def polygons(kind: str, rng: np.random.Generator, height: int, width: int) -> list[list[float]]:
    """One to three of them."""
    found = []
    for _ in range(rng.integers(1, 4)):
        points = rng.random((rng.integers(3, 12), 2))
        if kind == "outside":
            points = 3 * points - 1
        elif kind == "far":
            points = 100 * points - 50
        elif kind == "border":
            points = np.round(2 * points) / 2
        elif kind == "thin":
            points[:, 1] = points[:, 0] * rng.random() + 0.003 * points[:, 1]
        points = points * (width, height)
        if kind in ("whole", "fifths", "tenths"):
            parts = {"whole": 1, "fifths": 5, "tenths": 10}[kind]
            points = np.round(points * parts) / parts
        if kind == "degenerate":
            points = np.repeat(np.round(points), rng.integers(1, 3, len(points)), axis=0)
            points = np.concatenate([points, points[:1]])
            points[:, rng.integers(2)] = points[0, rng.integers(2)] if rng.random() < 0.3 else points[:, 0]
        found.append(points.ravel().tolist())
    return found


@pytest.mark.parametrize(
    "kind", ["inside", "outside", "far", "border", "thin", "whole", "fifths", "tenths", "degenerate"]
)
def test_polygons_are_drawn_as_by_pycocotools(coco_tools, drawn, kind):
    rng = np.random.default_rng(sum(kind.encode()))
    covered = 0
    for _ in range(60):
        height, width = (int(side) for side in rng.integers(1, 50, 2))
        outline = polygons(kind, rng, height, width)
        expected = coco_tools(outline, height, width)
        np.testing.assert_array_equal(drawn(outline, height, width), expected, err_msg=str((height, width, outline)))
        covered += expected.any()
    assert covered > (10 if kind in ("thin", "degenerate") else 30)


def test_a_polygon_of_many_crossings_is_drawn_in_pieces(coco_tools, drawn, monkeypatch):
    monkeypatch.setattr("pplfast.data.coco_masks.AT_ONCE", 7)
    outline = polygons("inside", np.random.default_rng(1), HEIGHT, WIDTH)
    np.testing.assert_array_equal(drawn(outline), coco_tools(outline, HEIGHT, WIDTH))


def test_lines_and_points_beside_a_polygon_cover_nothing(drawn):
    square = np.zeros((HEIGHT, WIDTH), bool)
    square[2:5, 3:9] = True
    outline = [3, 2, 9, 2, 9, 5, 3, 5]
    np.testing.assert_array_equal(drawn([outline]), square)
    np.testing.assert_array_equal(drawn([[20, 20], outline, [1, 1, 30, 20], [7, 7] * 9, []]), square)


@pytest.mark.parametrize("form", ["compressed", "uncompressed"])
def test_run_lengths_are_decoded_as_by_pycocotools(coco_tools, drawn, form):
    tools = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed: make installs it")
    rng = np.random.default_rng(3)
    for case in range(60):
        height, width = (int(side) for side in rng.integers(1, 60, 2))
        mask = rng.random((height, width)) < (0, 1, 0.02, 0.5, 0.98)[case % 5]
        if case % 2:
            mask = np.repeat(np.repeat(mask, 9, 0), 11, 1)  # long runs
            height, width = mask.shape
        if form == "compressed":
            outline = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
            outline["counts"] = outline["counts"].decode()
        else:
            changes = np.flatnonzero(np.diff(mask.T.ravel(), prepend=False))
            outline = {"size": [height, width], "counts": np.diff(changes, prepend=0, append=mask.size).tolist()}
        np.testing.assert_array_equal(drawn(outline, height, width), mask)
        np.testing.assert_array_equal(coco_tools(outline, height, width), mask)


def test_run_lengths_may_hold_runs_of_nothing(drawn):
    counts = {"size": [2, 3], "counts": [0, 0, 1, 1, 0, 1, 3, 0]}
    assert drawn(counts, 2, 3).T.ravel().tolist() == [False, True, True, False, False, False]


def values(file, *columns):
    return coco_mask(file, file.images[0], columns or None)


def test_the_smaller_of_two_objects_is_on_top(save):
    small, large = (5, 5, 10, 5, 10, 10, 5, 10), (0, 0, 20, 0, 20, 20, 0, 20)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[:20, :20] = 18
    expected[5:10, 5:10] = 1
    for objects in ((annotation(1, 1, (small,)), annotation(2, 18, (large,))),) * 2:
        np.testing.assert_array_equal(values(read_coco(save(objects))), expected)
        np.testing.assert_array_equal(values(read_coco(save(objects[::-1]))), expected)


def test_of_objects_of_one_size_the_later_is_on_top(save):
    outline = (2, 3, 9, 3, 9, 9, 2, 9)
    one, two = annotation(9, 1, (outline,), area=1.0), annotation(1, 18, (outline,), area=99.0)
    assert set(np.unique(values(read_coco(save((one, two)))))) == {0, 18}
    assert set(np.unique(values(read_coco(save((two, one)))))) == {0, 1}


def test_a_crowd_is_255_where_no_object_is(save):
    crowd = annotation(1, 1, {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * 20, HEIGHT * 20]}, iscrowd=1)
    object = annotation(2, 18, ((10, 0, 30, 0, 30, 30, 10, 30),))
    row = [255] * 10 + [18] * 20 + [0] * 10
    for annotations in ((crowd, object), (object, crowd)):
        np.testing.assert_array_equal(values(read_coco(save(annotations))), [row] * HEIGHT)


def test_columns_choose_objects_and_crowds(save):
    crowd = annotation(1, 1, (LEFT,), iscrowd=1)
    file = read_coco(save((crowd, annotation(2, 18, (RIGHT,)))))
    assert values(file).tolist() == [[255] * 20 + [18] * 20] * HEIGHT
    assert values(file, 1).tolist() == [[0] * 20 + [18] * 20] * HEIGHT
    assert values(file, 0).tolist() == [[255] * 20 + [0] * 20] * HEIGHT


def test_an_image_without_annotations_is_background(save):
    assert not values(read_coco(save())).any()


def rle(counts, size=(HEIGHT, WIDTH)) -> dict:
    return {"size": list(size), "counts": counts}


PIXELS = HEIGHT * WIDTH


@pytest.mark.parametrize(
    "outline, words",
    [
        (None, "has no outline"),
        ([], "has no outline"),
        ("x", "neither an RLE nor a list of polygons"),
        ([1, 2, 3, 4, 5, 6], "neither an RLE nor a list of polygons"),
        ([[1, 2, 3, 4, "5", 6]], "neither an RLE nor a list of polygons"),
        ([[[1, 2], [3, 4], [5, 6]]], "neither an RLE nor a list of polygons"),
        ([[1, 2, 3, 4, 5, 10**400]], "neither an RLE nor a list of polygons"),
        ([[1, 2, 3, 4, 5, 6, 7]], "a polygon has 7 numbers"),
        ([[1, 2, 3, 4]], "none of its polygons has 3 corners"),
        ([[]], "none of its polygons has 3 corners"),
        ([[1, 2, 3, 4, 5, float("nan")]], "a corner of its polygon is no number"),
        ([[1, 2, 3, 4, 5, float("inf")]], "a corner of its polygon is no number"),
        ([[1, 2, 3, 4, 5, 1e300]], "far outside of any image"),
        ([[0, 0, WIDTH, HEIGHT] * 250_000], "longer than any in 40 x 30 pixels can be"),
        ([[0, 0, WIDTH, HEIGHT] * 1000], "longer than any in 40 x 30 pixels can be"),
        (rle([PIXELS], (WIDTH, HEIGHT)), "the size of its RLE is not the image's [30, 40]"),
        ({"counts": [PIXELS]}, "the size of its RLE"),
        (rle([PIXELS - 1]), "do not add up to the 1200 pixels"),
        (rle([PIXELS, 1]), "do not add up"),
        (rle([-5, PIXELS + 5]), "do not add up"),
        (rle([2**62, 2**62, 2**62, 2**62]), "do not add up"),
        (rle([]), "do not add up"),
        (rle([2**64]), "neither whole numbers nor a text"),
        (rle([1.5, PIXELS - 1.5]), "neither whole numbers nor a text"),
        (rle(None), "neither whole numbers nor a text"),
        (rle(""), "counts of its RLE are damaged"),
        (rle("oooooooo0"), "counts of its RLE are damaged"),
        (rle("0o"), "counts of its RLE are damaged"),
        (rle("0\u3042"), "counts of its RLE are damaged"),
        (rle("0 "), "counts of its RLE are damaged"),
        (rle("A"), "do not add up"),
    ],
)
def test_an_outline_that_cannot_be_drawn_names_its_annotation(drawn, outline, words):
    message = refused(drawn, outline)
    assert words in message and "annotation 77, of 'a.jpg'" in message


def test_an_image_of_too_many_pixels_is_refused(save):
    shown = [{"id": 1, "file_name": "a.jpg", "height": 10**5, "width": 10**5}]
    file = read_coco(save((annotation(1),), shown))
    assert "'a.jpg' has 100000 x 100000 pixels" in refused(values, file)


# The command


@pytest.fixture
def photos(tmp_path):
    for name in ("one", "sub/two", "three"):
        save_image(tmp_path / "photos" / f"{name}.jpg")
    return tmp_path / "photos"


def command(photos, labels, *more):
    out = photos.parent / "masks"
    words = ["data", "masks", "--data", photos, "--labels", labels, "--out", out, *more]
    return main([str(word) for word in words]), out


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_command_writes_the_masks_that_a_data_set_takes(save, photos, capsys):
    objects = (annotation(1, 1, (LEFT,)), annotation(2, 18, (RIGHT,), image=2))
    labels = save(objects, images("one.jpg", "elsewhere/two.jpg", "gone.jpg"))
    code, out = command(photos, labels)
    said = capsys.readouterr()
    assert code == 0 and said.err == ""
    assert said.out == f"{out}: 2 masks of {labels}; 1 images are not in it; use --masks {out}\n"
    assert files(out) == ["one.png", "sub/two.png"]
    dataset = open_dataset(DataConfig(str(photos), labels="none", masks=str(out)))
    found = {id: read_mask(mask).tolist() for id, mask in zip(dataset.ids, dataset.masks) if mask}
    assert found == {"one": [[1] * 20 + [0] * 20] * HEIGHT, "sub/two": [[0] * 20 + [18] * 20] * HEIGHT}


def test_classes_choose_categories_and_masks_are_replaced(save, photos, capsys):
    labels = save((annotation(1, 1, (LEFT,)), annotation(2, 18, (RIGHT,))), images("one.jpg"))
    assert command(photos, labels)[0] == 0
    code, out = command(photos, labels, "--classes", "dog")
    assert code == 0 and capsys.readouterr().out.endswith(f"use --masks {out} --classes dog=18\n")
    assert read_mask(out / "one.png").tolist() == [[0] * 20 + [18] * 20] * HEIGHT
    code, _ = command(photos, labels, "--classes", "dgo")
    assert code == 2 and "did you mean dog?" in capsys.readouterr().err


def test_an_image_of_another_size_is_named_and_the_others_are_drawn(save, photos, capsys):
    shown = images("one.jpg", "two.jpg", "three.jpg")
    shown[0]["width"] = 41
    labels = save((annotation(1, image=3), annotation(2, segmentation=[[1]], image=2)), shown)
    code, out = command(photos, labels)
    said = capsys.readouterr()
    assert code == 3 and files(out) == ["three.png"]
    first, second = said.err.splitlines()
    assert first == (
        f"{photos}/one.jpg: 40 x 30 pixels, but 41 x 30 in {labels}; replace one of them"
    ) and second.startswith(f"{labels}: annotation 2, of 'two.jpg': ")
    assert "1 masks of" in said.out and "2 images have no mask, for the reasons above" in said.out


def test_an_image_that_cannot_be_read_is_named(save, photos, capsys):
    (photos / "one.jpg").write_bytes(b"no image")
    code, out = command(photos, save((), images("one.jpg", "three.jpg")))
    assert code == 3 and files(out) == ["three.png"]
    assert capsys.readouterr().err.startswith(f"{photos}/one.jpg: not a JPEG but")


def test_images_that_one_name_fits_get_no_mask(save, photos, capsys):
    save_image(photos / "other" / "two.jpg")
    code, out = command(photos, save((), images("two.jpg", "one.jpg")))
    assert code == 3 and files(out) == ["one.png"]
    assert "'two.jpg' fits other/two and sub/two; rename one" in capsys.readouterr().err


def test_a_file_of_other_images_is_refused(save, photos, capsys):
    code, out = command(photos, save((), images("x.jpg")))
    error = capsys.readouterr().err
    assert code == 2 and "has none of the 3 images of photos (its names are like 'x.jpg')" in error
    assert not out.exists()


def test_masks_are_not_written_among_the_images_nor_through_a_link(save, photos, capsys, tmp_path):
    labels = save((), images("one.jpg", "two.jpg"))
    assert command(photos, labels, "--out", photos / "masks")[0] == 2
    assert "lies among the data set's files" in capsys.readouterr().err and not (photos / "masks").exists()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "sub").symlink_to(tmp_path / "elsewhere")
    assert command(photos, labels)[0] == 2
    assert "a symbolic link leads out" in capsys.readouterr().err and not files(tmp_path / "elsewhere")
