"""Weight files, trained networks and checkpoints, above and below their checksums."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save as as_safetensors

import fuzz.mutate as mutate
from fuzz import binary, networks
from fuzz.reader import Reader, file_name
from fuzz.trees import json_tree
from pplfast.cli.model import as_option, model_classes
from pplfast.cluster.ranks import Ranks
from pplfast.data.classes import parse_classes
from pplfast.errors import UserError
from pplfast.labeller import load_labeller
from pplfast.models.weights import load_weights
from pplfast.networks import BOUNDARY, CLASSIFIER, SEGMENTATION, Kind
from pplfast.recipe import AffinityConfig
from pplfast.train import load_classifier, network_file
from pplfast.train.affinity import AffinityTask, load_boundaries
from pplfast.train.checkpoint import MANIFEST, STATE, SUMS, CheckpointFolder, Progress, _sum_line
from pplfast.train.classifier import ClassifierTask
from pplfast.train.segmentation import SegmentationTask, load_segmentation
from pplfast.train.state import TrainState, checked_loss_scale, restore_weights
from pplfast.train.trainer import TrainResult

JSON = mutate.mixed(json_tree, json_tree, json_tree)
SAFETENSORS = mutate.mixed(binary.safetensors, binary.safetensors)
ALONE = Ranks(0, 1, 1, torch.device("cpu"))


def _weights(name: str, content: bytes) -> tuple[Callable[[Path], object], Callable[[Path], object]]:
    def prepare(folder: Path) -> None:
        (folder / name).write_bytes(content)

    def read(folder: Path) -> None:
        network = networks.small()
        load_weights(network, folder / name)
        _finite(network)

    return prepare, read


def _finite(network: torch.nn.Module) -> None:
    odd = [name for name, tensor in network.state_dict().items() if not tensor.isfinite().all()]
    assert not odd, f"accepted: {odd[0]} is not finite"


def _result(folder: Path, task: type) -> TrainResult:
    """As a training does that finds its folder finished."""
    result = TrainResult(folder, already_finished=True, **task.read_training(None, folder))
    f"{result.steps:d} {result.seconds:.1f} {result.images_per_s:.1f} {result.loss:.4f}"
    return result


def _classes(folder: Path, kind: Kind) -> None:
    """What --classes is taken from."""
    classes = model_classes(folder, kind)
    if classes is not None:
        parse_classes(as_option(classes))


def _read_classifier(folder: Path) -> None:
    _classes(folder / "train", CLASSIFIER)
    load_labeller(folder / "train")
    _finite(load_classifier(folder / "train"))
    _result(folder / "train", ClassifierTask)


def _read_boundary(folder: Path) -> None:
    _classes(folder, BOUNDARY)
    network_file.read_settings(folder, "boundary", AffinityConfig)
    _finite(load_boundaries(folder))
    _result(folder, AffinityTask)


def _read_segmentation(folder: Path) -> None:
    _classes(folder, SEGMENTATION)
    load_labeller(folder)
    _finite(load_segmentation(folder)[0])
    _result(folder, SegmentationTask)


# ---- checkpoints


def _checkpoint(folder: Path) -> None:
    checkpoints = CheckpointFolder(folder, ALONE, keep=2)
    tensors = {f"model.{name}": tensor for name, tensor in networks.state().items()}
    tensors |= {f"momentum.{name}": tensor.clone() for name, tensor in networks.state().items()}
    checkpoints.save(TrainState(tensors, torch.amp.GradScaler("cpu").state_dict()), Progress(0, 4, 4, False, 1.5))
    checkpoints.finish()


def _resume(reseal: bool) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        path = folder / "stage1-0000004"
        if reseal:
            (path / SUMS).write_text("".join(_sum_line(path / name) for name in (STATE, MANIFEST)), encoding="ascii")
        checkpoints = CheckpointFolder(folder, ALONE, keep=2)
        found, notes = checkpoints.latest()
        if found is None:  # the run goes on from the one before, or anew, and says so
            raise UserError(f"{path / STATE}, {MANIFEST}: {'; '.join(notes)}")
        state = checkpoints.read(found)
        network = networks.small()
        restore_weights(network, state, ALONE)
        _finite(network)
        if scale := checked_loss_scale(state):
            torch.amp.GradScaler("cpu").load_state_dict(scale)
        f"{found.progress.steps:d} {found.progress.seconds:.1f}"

    return read


PLACE = "stage1-0000004"


def _named(folder: Path) -> None:
    _checkpoint(folder / "checkpoints")
    (folder / "name").write_text("stage1-0000009")


def _resume_beside(folder: Path) -> None:
    """A folder of that name lies among the checkpoints; it is none."""
    name = file_name((folder / "name").read_bytes())
    (folder / "checkpoints" / name).mkdir(exist_ok=True)
    found, _ = CheckpointFolder(folder / "checkpoints", ALONE, keep=2).latest()
    assert found is not None and found.progress.stage_steps == 4, "another checkpoint than the one that is whole"


def readers() -> list[Reader]:
    state = networks.state()
    wrapped = {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3, "best": 0.5}
    torches = (networks.as_torch(wrapped), networks.as_torch({"model": state}))
    legacy = (networks.as_torch(wrapped, legacy=True),)
    params = tuple(networks.as_mxnet(state, magic) for magic in (None, 0xF993FAC8, 0xF993FACA))
    torch_file = mutate.mixed(binary.torch_file, binary.torch_file)
    return [
        Reader("safetensors", "w.safetensors", *_around(_weights("w.safetensors", as_safetensors(state)), SAFETENSORS)),
        Reader("pth", "w.pth", *_around(_weights("w.pth", networks.as_torch(state)), torch_file), more=torches),
        Reader(
            "pth_legacy",
            "w.pth",
            *_around(_weights("w.pth", networks.as_torch(state, legacy=True)), torch_file),
            more=legacy,
        ),
        Reader(
            "mxnet_params",
            "w.params",
            *_around(_weights("w.params", networks.as_mxnet(state)), mutate.plain),
            more=params,
        ),
        *_pair(
            "classifier",
            "train/classifier",
            lambda folder: networks.write_classifier(folder / "train"),
            _read_classifier,
        ),
        *_pair("boundary", "boundary", networks.write_boundary, _read_boundary),
        *_pair("segmentation", "segmentation", networks.write_segmentation, _read_segmentation),
        Reader(
            "checkpoint_sums",
            f"{PLACE}/{SUMS}",
            _checkpoint,
            mutate.mixed(mutate.text("  ", STATE)),
            _resume(False),
            named=(PLACE,),
        ),
        Reader("checkpoint_index", f"{PLACE}/{MANIFEST}", _checkpoint, JSON, _resume(True)),
        Reader(
            "checkpoint_name",
            "name",
            _named,
            mutate.text("stage", "-end", "-", "stage1-0000004", ".partial"),
            _resume_beside,
            more=(b"stage2-end", b"other"),
            named=("checkpoints/",),
            writes=True,
        ),
        Reader("checkpoint_state", f"{PLACE}/{STATE}", _checkpoint, SAFETENSORS, _resume(True), named=(PLACE,)),
    ]


def _around(pair: tuple[Callable[[Path], object], Callable[[Path], object]], mutator: mutate.Mutator):
    return pair[0], mutator, pair[1]


def _pair(name: str, file: str, prepare: Callable[[Path], None], read: Callable[[Path], None]) -> list[Reader]:
    """A network's two files: a fault that only both together show may be put down to either."""
    both = (f"{name}.json", f"{name}.safetensors")
    return [
        Reader(f"{name}_json", f"{file}.json", prepare, JSON, read, named=both),
        Reader(f"{name}_weights", f"{file}.safetensors", prepare, SAFETENSORS, read, named=both),
    ]
