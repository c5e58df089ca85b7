"""Boundary and segmentation networks, their losses and labels, masks in training batches, the server's archive."""

import dataclasses
import re
import tarfile
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from train_data import open_images, write_images

from pplfast.benchmarks import cost
from pplfast.benchmarks.flops import step_flops
from pplfast.benchmarks.models import Case
from pplfast.benchmarks.reference.walk import line_cells
from pplfast.cli import main
from pplfast.data import sampling
from pplfast.data.classes import IGNORE, ClassList
from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.data.loader import TrainLoader
from pplfast.data.masks import read_mask, write_mask
from pplfast.errors import UserError
from pplfast.evaluate import submission
from pplfast.kernels import Cells
from pplfast.models import create
from pplfast.models.boundary import BoundaryNet
from pplfast.models.segmentation import SegmentationNet
from pplfast.recipe import (
    AffinityConfig,
    AugmentConfig,
    SegmentationConfig,
    load_recipe,
    preset_names,
    recipe_from_dict,
)
from pplfast.train import segmentation
from pplfast.train.affinity import affinity_losses
from pplfast.train.segmentation import SegmentationTask, pixel_losses, row_table

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """The small images with random masks beside them."""
    root = tmp_path_factory.mktemp("masked")
    dataset = open_images(write_images(root))
    rng = np.random.default_rng(1)
    paths = []
    for index, name in enumerate(dataset.ids):
        paths.append(root / "masks" / f"{name}.png")
        write_mask(paths[-1], rng.integers(0, 4, (60, 64 + index), dtype=np.uint8))
    return dataclasses.replace(dataset, masks=tuple(paths))


def test_masks_are_cut_like_their_images_and_never_interpolated(masked):
    """Against numpy: each pixel is the mask's at the centre of the same place; where that falls on the border of two
    pixels, up to float32, either of the two."""
    augment = AugmentConfig(crop=64, resize_long=(40, 90))
    loader = TrainLoader(masked, augment, (0,) * 3, (1,) * 3, batch_size=10, seed=3, threads=1, masks=True)
    [batch] = loader.epoch(0)
    assert batch.targets.dtype == torch.int64 and batch.targets.shape == (10, 64, 64)
    uniforms = sampling.epoch_uniforms(3, 0, 10)[batch.indices.numpy()]
    shapes = np.array([(60, 64 + index) for index in batch.indices.tolist()])
    cut = sampling.geometry(shapes, uniforms, augment)
    for row, index in enumerate(batch.indices.tolist()):
        mask, size = read_mask(masked.masks[index]), cut.size[row].astype(int)
        found = batch.targets[row].numpy()
        found = found[:, ::-1] if cut.flip[row] else found
        at = np.rint(cut.place[row] * (64 - size)).astype(int)
        inner = found[at[0] : at[0] + size[0], at[1] : at[1] + size[1]]
        assert (found == IGNORE).sum() == 64 * 64 - size[0] * size[1]
        choices = []
        for shift in (-1e-3, 1e-3):
            start, scale = cut.roi_start[row], (cut.roi_end[row] - cut.roi_start[row]) / size
            rows, columns = (
                np.clip(
                    np.floor(start[k] + (np.arange(size[k]) + 0.5) * scale[k] + shift), 0, mask.shape[k] - 1
                ).astype(int)
                for k in (0, 1)
            )
            choices.append((rows, columns))
        options = [mask[rows][:, columns] for rows, _ in choices for _, columns in choices]
        assert np.any([inner == option for option in options], axis=0).all()
    [again] = loader.epoch(0)  # from the cache
    assert torch.equal(again.targets, batch.targets)


def test_masks_that_do_not_fit_are_named(masked, tmp_path):
    write_mask(tmp_path / "small.png", np.zeros((5, 5), np.uint8))
    wrong = dataclasses.replace(masked, masks=(tmp_path / "small.png", *masked.masks[1:]))
    options = {
        "augment": AugmentConfig(crop=32, resize_long=(32, 32)),
        "mean": (0,) * 3,
        "std": (1,) * 3,
        "batch_size": 10,
    }
    with pytest.raises(UserError, match="small.png: is 5 x 5 pixels, its image 64 x 60"):
        list(TrainLoader(wrong, **options, threads=1, masks=True).epoch(0))
    with pytest.raises(UserError, match="has no mask"):
        TrainLoader(dataclasses.replace(masked, masks=(None, *masked.masks[1:])), **options, masks=True)


def test_affinity_loss_equals_its_definition_pair_by_pair():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, generator=generator, requires_grad=True)
    labels = torch.tensor([0, 1, 1, 2, IGNORE])[torch.randint(0, 5, (2, 4, 5), generator=generator)]
    found = affinity_losses(logits, labels.repeat_interleave(4, 1).repeat_interleave(4, 2), radius=4)
    for image in range(2):
        edge = torch.sigmoid(logits[image])
        terms = {"background": [], "object": [], "apart": []}
        for y in range(4):
            for x in range(5):
                for dy in range(4):
                    for dx in range(-3, 4):
                        if dy * dy + dx * dx >= 16 or (dy == 0 and dx <= 0):
                            continue
                        if y + dy >= 4 or not 0 <= x + dx < 5:
                            continue
                        one, other = int(labels[image, y, x]), int(labels[image, y + dy, x + dx])
                        if IGNORE in (one, other):
                            continue
                        barrier = torch.stack([edge[y + cy, x + cx] for cy, cx in line_cells(dy, dx)]).max()
                        if one == other:
                            terms["object" if one else "background"].append(-torch.log(1 - barrier + 1e-5))
                        else:
                            terms["apart"].append(-torch.log(barrier + 1e-5))
        means = {kind: torch.stack(values).mean() for kind, values in terms.items()}
        wanted = ((means["background"] + means["object"]) / 2 + means["apart"]) / 2
        torch.testing.assert_close(found[image], wanted, rtol=1e-4, atol=1e-5)
    (own,) = torch.autograd.grad(found.sum(), logits)
    assert own.abs().sum() > 0 and torch.isfinite(own).all()
    nothing = affinity_losses(logits, torch.full((2, 16, 20), IGNORE), radius=4)
    assert nothing.tolist() == [0, 0]


def test_losses_ask_for_no_value_of_a_tensor():
    """On a GPU the host would wait for it in every step; bincount, for one, asks for the largest."""
    labels = torch.randint(0, 3, (2, 32, 32))
    logits = torch.randn(2, 8, 8, requires_grad=True)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        losses = affinity_losses(mode.from_tensor(logits), mode.from_tensor(labels), radius=3)
        assert losses.shape == (2,)


def test_the_table_of_rows_stays_on_the_device_of_the_labels(masked, monkeypatch):
    task = SegmentationTask(SegmentationConfig(), masked, seed=0)
    task.cells = Cells(0, 4)  # of the network that it trains
    monkeypatch.setattr(segmentation, "pixel_losses", lambda logits, cells, rows, _: rows.flatten(1).sum(1))
    batch = SimpleNamespace(targets=torch.zeros(2, 8, 8, dtype=torch.int64, device="meta"), weights=1)
    for _ in range(2):
        assert task.losses(torch.randn(2, 4, 2, 2, device="meta"), batch).shape == (2,)
        assert task.table.is_meta


def test_pixel_losses():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    rows = torch.randint(0, 3, (2, 8, 8))
    rows[0, :4] = IGNORE
    full = F.interpolate(logits, size=(8, 8), mode="bilinear", align_corners=False)
    found = pixel_losses(logits, Cells.over(8, 4), rows, balanced=False)
    for image in range(2):
        wanted = F.cross_entropy(full[image : image + 1], rows[image : image + 1], ignore_index=IGNORE)
        torch.testing.assert_close(found[image], wanted)
    every = F.cross_entropy(full, rows, ignore_index=IGNORE, reduction="none")
    balanced = pixel_losses(logits, Cells.over(8, 4), rows, balanced=True)
    wanted = (every[1][rows[1] == 0].mean() + every[1][rows[1] > 0].mean()) / 2
    torch.testing.assert_close(balanced[1], wanted)
    only = pixel_losses(logits, Cells.over(8, 4), torch.zeros(2, 8, 8, dtype=torch.int64), balanced=True)
    torch.testing.assert_close(
        only, pixel_losses(logits, Cells.over(8, 4), torch.zeros(2, 8, 8, dtype=torch.int64), balanced=False)
    )
    assert pixel_losses(logits, Cells.over(8, 4), torch.full((2, 8, 8), IGNORE), balanced=True).tolist() == [0, 0]
    assert row_table(ClassList(("bus", "car"), (6, 7)))[[0, 6, 7, 1, 255]].tolist() == [0, 1, 2, IGNORE, IGNORE]


@pytest.mark.parametrize("name, stride, head, usual", [
    ("efficientnet_lite0", 16, "light", True), ("resnet101", 8, "aspp", True), ("resnet50", 16, "light", False),
    ("wrn38", 8, "largefov", True)])  # fmt: skip
def test_segmentation_networks(name, stride, head, usual):
    with torch.device("meta"):  # random weights for WideResNet-38's 105 million numbers take 10 s
        model = SegmentationNet(create(name, output_stride=stride)[0], 21, "auto" if usual else head).eval()
    model.to_empty(device="cpu")
    assert model.head_name == head
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 40)).shape == (1, 21, 4, 5)


def test_a_head_needs_its_features():
    with torch.device("meta"):
        with pytest.raises(UserError, match="no features at stride 8"):
            SegmentationNet(create("wrn38")[0], 21, "light")
        with pytest.raises(UserError, match="must be one of"):
            SegmentationNet(create("efficientnet_lite0")[0], 21, "deep")


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet50"])
def test_boundary_network_trains_its_heads_alone(name):
    model = BoundaryNet(create(name)[0])
    assert {key.split(".")[0] for key, value in model.named_parameters() if value.requires_grad} == {"heads", "edge"}
    out = model(torch.randn(2, 3, 65, 80))
    assert out.shape == (2, 17, 20)
    out.sum().backward()


def test_a_partial_table_keeps_the_tables_own_defaults():
    recipe = recipe_from_dict({"stages": [{"epochs": 1}], "affinity": {"epochs": 2, "optim": {"batch": 4}}}, "test")
    default = AffinityConfig()
    assert recipe.affinity.optim == dataclasses.replace(default.optim, batch=4) and recipe.affinity.walk == default.walk
    for table, message in (
        ({"affinity": {"foreground": 0.01}}, "affinity.background.*foreground = 0.01"),
        ({"segmentation": {"optim": {"zero": 7}}}, "segmentation.optim.zero"),
        ({"affinity": {"walk": {"radius": 1}}}, "affinity.walk.radius"),
    ):
        with pytest.raises(UserError, match=message):
            recipe_from_dict({"stages": [{"epochs": 1}], **table}, "test")


@pytest.fixture
def voc_like(tmp_path) -> Path:
    root = tmp_path / "VOC2012"
    write_images(root / "JPEGImages", 3)
    (root / "JPEGImages" / "labels.csv").unlink()
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "test.txt").write_text("photo0\nphoto1\nphoto2\n")
    for index in range(3):
        write_mask(tmp_path / "labels" / f"photo{index}.png", np.full((60, 64 + index), index, np.uint8))
    return root


def test_submission(voc_like, tmp_path, capsys):
    command = [
        "submit",
        "--data",
        str(voc_like),
        "--pngs",
        str(tmp_path / "labels"),
        "--out",
        str(tmp_path / "results.tar.gz"),
    ]
    assert main(command) == 0
    assert "3 images of VOC2012/test" in capsys.readouterr().out
    with tarfile.open(tmp_path / "results.tar.gz") as archive:
        names = archive.getnames()
        assert names == [f"results/VOC2012/Segmentation/comp6_test_cls/photo{index}.png" for index in range(3)]
        archive.extractall(tmp_path / "unpacked", filter="data")
    assert (read_mask(tmp_path / "unpacked" / names[2]) == 2).all()


@pytest.mark.parametrize("damage, message", [
    (lambda folder: (folder / "photo1.png").unlink(), "photo1.png: no such file"),
    (lambda folder: write_mask(folder / "photo1.png", np.zeros((5, 6), np.uint8)), "is 6 x 5 pixels"),
    (lambda folder: write_mask(folder / "photo1.png", np.full((60, 65), 255, np.uint8)), "unsure pixels"),
    (lambda folder: write_mask(folder / "photo1.png", np.full((60, 65), 21, np.uint8)), "the value 21"),
    (lambda folder: (folder / "photo1.png").write_bytes(b"no png"), "not a readable PNG"),
])  # fmt: skip
def test_a_submission_that_the_server_would_refuse(voc_like, tmp_path, capsys, damage, message):
    damage(tmp_path / "labels")
    out = tmp_path / "results.tar.gz"
    assert main(["submit", "--data", str(voc_like), "--pngs", str(tmp_path / "labels"), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not out.exists()


def test_an_archive_whose_entry_is_no_file(voc_like, tmp_path):
    path = tmp_path / "results.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo(f"{submission.FOLDER}/photo0.png")
        entry.type = tarfile.DIRTYPE
        archive.addfile(entry)
    with pytest.raises(UserError, match=r"photo0\.png is not a file there"):
        submission.check_submission(path, open_dataset(DataConfig(str(voc_like), "test", labels="none")))


@pytest.mark.parametrize("arguments, message", [
    (("refine", "train", "--model", "x", "--pngs", "y", "--recipe", "demo"), "x: no such folder; give the folder"),
    (("segment", "train", "--pngs", "y", "--recipe", "demo"), "no [segmentation] table"),
    (("segment", "train", "--pngs", "nowhere", "--recipe", "own-images"), "nowhere: holds no label of"),
    (("refine", "walk", "--model", "x", "--cams", "y", "--radius", "1"), "--radius 1"),
    (("refine", "walk", "--model", "nowhere", "--cams", "y"), "nowhere: no such folder"),
    (("segment", "test", "--model", "."), "holds no segmentation.json"),
    (("segment", "test", "--model", "nowhere", "--crf", "x"), "CRF preset 'x'"),
])  # fmt: skip
def test_mistakes_are_one_line(masked, tmp_path, capsys, arguments, message):
    root = masked.images[0].parent
    data = ["--data", str(root), "--labels", str(root / "labels.csv"), "--classes", "cat,dog,cow"]
    assert main([*arguments, *data, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_cost_counts_what_a_training_step_does():
    """Against the operations of a whole step on the meta device."""
    recipe = load_recipe("voc-lite0")
    blocks = cost.block_flops("efficientnet_lite0")
    positions = [cost._position(blocks, stage.position) for stage in recipe.stages]
    own = cost._classifier_training(recipe, "ppl", blocks, positions, images=1000)
    counted = sum(
        stage.epochs
        * step_flops(Case("efficientnet_lite0", 20, ((stage.position, stage.grid),)), 1, recipe.augment.crop, 3)
        for stage in recipe.stages
    )
    assert own == pytest.approx(counted, rel=0.06)  # a step computes no gradient of the frozen blocks' output
    names = [step.name for step in cost.recipe_cost(load_recipe("own-images"), "ppl", 100, 0, 10)]
    assert names == [
        "classifier",
        "CAMs",
        "labels through the CRF",
        "confident labels",
        "boundary network",
        "random walk",
        "segmentation network",
        "segmentation test",
        "labels by the network",
    ]


@pytest.mark.slow
def test_every_preset_with_a_cost_states_the_computed_one():
    for name in preset_names():
        text = resources.files("pplfast.recipes").joinpath(f"{name}.toml").read_text()
        command = re.search(r"pplfast.benchmarks.cost (\S+) ([^)]*)\)", text)
        if command:
            words = command[2].split()
            counts = dict(zip(words[::2], map(int, words[1::2]), strict=True))
            steps = cost.recipe_cost(
                load_recipe(name), "ppl", counts["--images"], counts.get("--scored", 0), counts.get("--test", 0)
            )
            assert all(line in text for line in cost.table(steps).splitlines())
