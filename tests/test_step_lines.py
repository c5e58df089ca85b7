"""How much of patch/ and models/ one has to read to follow a training step: the functions that it runs.

python tests/test_step_lines.py prints it.
"""

import inspect
import sys
from pathlib import Path

import pytest
import torch

import pplfast
from pplfast.models import create
from pplfast.patch.branches import Cut
from pplfast.patch.classifier import PatchClassifier

CUTS = {"wrn38": "b4_5", "resnet50": "layer3", "efficientnet_lite0": "group5"}
LIMIT = 400


def lines_of_a_step(name: str) -> dict[str, int]:
    """File -> lines, docstrings and comments included, blank ones not."""
    backbone, _ = create(name, weights="none")
    backbone.freeze(backbone.frozen_default)
    model = PatchClassifier(backbone, 20, "ppl", dropout=0.5).train()
    model.set_cuts([Cut(backbone.position(CUTS[name]) + 1, 2)])
    images = torch.randn(1, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    root = Path(pplfast.__file__).parent
    rooms = tuple(str(root / room) for room in ("patch", "models"))
    codes = set()

    def seen(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(rooms) and frame.f_code.co_name.isidentifier():
            codes.add(frame.f_code)

    sys.setprofile(seen)
    try:
        model(images).sum().backward()
    finally:
        sys.setprofile(None)
    lines = set()
    for code in codes:
        source, first = inspect.getsourcelines(code)
        lines |= {(code.co_filename, first + i) for i, line in enumerate(source) if line.strip()}
    files = sorted({file for file, _ in lines})
    return {str(Path(file).relative_to(root)): sum(file == other for other, _ in lines) for file in files}


@pytest.mark.parametrize("name", [pytest.param("wrn38", marks=pytest.mark.slow), "resnet50", "efficientnet_lite0"])
def test_a_training_step_is_read_in_under_400_lines(name):
    lines = lines_of_a_step(name)
    assert {"patch/branches.py", "patch/classifier.py", "models/layers.py"} < set(lines) and sum(lines.values()) < LIMIT
    assert not any("cpu" in file for file in lines)


if __name__ == "__main__":
    for network in CUTS:
        found = lines_of_a_step(network)
        print(f"{network}: {sum(found.values())} lines", found)
