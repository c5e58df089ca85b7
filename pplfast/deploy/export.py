"""A trained segmentation network into a folder: the exported file, checked, and its model card."""

from dataclasses import dataclass
from pathlib import Path

from pplfast.deploy.about import read_about
from pplfast.deploy.card import card_text
from pplfast.deploy.check import Run, largest_difference, onnx_run, pplfast_run, program_run
from pplfast.deploy.network import ExportedNetwork
from pplfast.deploy.onnx_file import check_onnx, write_onnx
from pplfast.deploy.program import make_program, smallest_side, write_program
from pplfast.errors import UserError
from pplfast.files import StrPath
from pplfast.networks import SEGMENTATION, find_network
from pplfast.train.segmentation import load_segmentation
from pplfast.whole_folder import check_free, whole_folder

FILES = {"onnx": "model.onnx", "torch": "model.pt2"}
CARD = "README.md"


@dataclass(frozen=True)
class Exported:
    """file: what was written. difference: the largest one between its probabilities and pplfast's; None where the file
    could not be run here."""

    file: Path
    difference: float | None


def export_model(model: StrPath, out: StrPath, format: str = "onnx") -> Exported:
    """The segmentation network of a run as a file that runs without pplfast, and its model card, README.md.

    model: the folder of the network, or of its run or variant. out: a folder, new or empty; its name is there once all
    of it is. format: "onnx": model.onnx, for onnxruntime; "torch": model.pt2, for torch.export.load.

    Input "image", uint8 (N, H, W, 3) in RGB, of any size; outputs "probabilities", float32 (N, rows, H, W), and
    "labels", uint8 (N, H, W). One scale, no flip, no CRF. The file is run on images of other sizes than it was made
    with (ONNX: where onnxruntime is installed). Raises UserError where there is no such network, where `out` holds
    something, where a package is missing, and where the file computes something else than pplfast: by more than 1e-4.
    """
    if format not in FILES:
        raise UserError(f"format '{format}': must be one of {', '.join(FILES)}")
    if format == "onnx":
        check_onnx()
    folder = find_network(model, SEGMENTATION)
    check_free(out)
    trained, classes = load_segmentation(folder)
    about = read_about(folder, classes)
    network = ExportedNetwork(trained, classes)
    program = make_program(network)
    with whole_folder(out) as temporary:
        file = temporary / FILES[format]
        run: Run | None
        if format == "onnx":
            write_onnx(program, about.properties(), file)
            run, smallest = onnx_run(file), 1
        else:
            write_program(program, about.properties(), file)
            run, smallest = program_run(file), smallest_side(network)
        stride = network.model.backbone.stride
        found = None if run is None else largest_difference(run, pplfast_run(trained, about.config), classes, stride)
        (temporary / CARD).write_text(card_text(about, format, smallest), encoding="utf-8")
    return Exported(Path(out) / FILES[format], found)
