"""The exported network as one ONNX file."""

import importlib.util
from pathlib import Path

import torch
from torch.export import ExportedProgram

from pplfast.deploy.program import quiet
from pplfast.errors import UserError

OPSET = 18
INPUT, OUTPUTS = "image", ("probabilities", "labels")
DIMENSIONS = ("N", "H", "W")  # of the input, before the colours
NEEDED = ("onnx", "onnxscript")


def check_onnx() -> None:
    """Raises UserError where a package is missing that writes ONNX."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"format 'onnx': needs {' and '.join(missing)}; install with pip install 'pplfast[onnx]', or choose the "
            "format 'torch'"
        )


def write_onnx(program: ExportedProgram, properties: dict[str, str], path: Path) -> None:
    """properties: into the file's metadata. Of this machine, its folders for one, the file says nothing."""
    with quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            verbose=False,
        )
    assert made is not None, "what the exporter with dynamo gives"
    model = made.model
    shape = model.graph.inputs[0].shape
    names = {str(shape[axis]): name for axis, name in enumerate(DIMENSIONS)}
    for value in (*model.graph.inputs, *model.graph.outputs):
        for axis, size in enumerate(value.shape):
            if str(size) in names:
                value.shape[axis] = names[str(size)]
    for node in model.graph:  # stack traces
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
    model.metadata_props.update(properties)
    with quiet():
        made.save(path, external_data=False)
