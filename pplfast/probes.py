"""The probes of `pplfast doctor`: each runs a part on a tiny input, and looks at what comes out.

`python -m pplfast.probes ENGINE=MODULE:FUNCTION ...` runs some, and prints what they find as JSON.
"""

import contextlib
import faulthandler
import importlib
import json
import os
import platform
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One row of the table. ok: the part works; a part that does not work makes `pplfast doctor` exit with 1."""

    engine: str
    backend: str
    why: str
    ok: bool = True


def hardware() -> dict[str, str]:
    """CPU, memory and GPUs, in words."""
    import torch

    features = [
        name
        for name, has in (
            ("AVX512", torch.cpu._is_avx512_supported()),
            ("AVX512-BF16", torch.cpu._is_avx512_bf16_supported()),
            ("AMX", torch.cpu._is_amx_tile_supported()),
        )
        if has
    ]
    cpu = f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores usable"
    gpus = [
        f"{properties.name} ({properties.total_memory / 2**30:.0f} GiB, sm_{properties.major}{properties.minor})"
        for properties in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    ]
    return {
        "platform": platform.platform(),
        "cpu": f"{cpu}{', ' + ' '.join(features) if features else ''}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "gpus": ", ".join(gpus) or "none",
    }


def kernels() -> list[Finding]:
    import torch

    from pplfast import kernels
    from pplfast.kernels import backend

    x = torch.arange(48, dtype=torch.float32).reshape(1, 2, 4, 6).to(_device())
    patches = kernels.patch_split(x, 2, 1)
    if not torch.equal(patches[3, :, :2, :3], x[0, :, 2:, 3:]):
        raise RuntimeError("patch_split gives wrong values")
    findings = [Finding(f"kernel {name}", chosen, why) for name, chosen, why in backend.describe()]
    return findings if _device() == "cuda" else [*findings, examine_depthwise()]


def examine_depthwise() -> Finding:
    from pplfast.cpu.native import library

    compiled = library()
    return Finding("depthwise convolution", "PyTorch" if compiled.functions is None else "C++", compiled.reason)


def loader() -> list[Finding]:
    import numpy as np
    from PIL import Image

    from pplfast.data.decoding_processes import Encoded
    from pplfast.data.encoded import ImageDecoder, read_encoded
    from pplfast.data.handover import Handover
    from pplfast.data.images import BadImage, inspect_image
    from pplfast.data.pipelines import Resizer, resolve_device

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.jpg"
        Image.fromarray(np.full((32, 48, 3), 200, np.uint8)).save(path)
        device = resolve_device(_device())
        (decoded,) = ImageDecoder(1, 1, device, None)([Encoded(read_encoded(path), inspect_image(path))])
        if isinstance(decoded, BadImage):
            raise RuntimeError(f"a JPEG that has just been written: {decoded}")
        pixels = Resizer((0.0,) * 3, (1.0,) * 3, 1, 1, Handover(device))([decoded], 1.0)
    if tuple(pixels.shape) != (1, 3, 32, 48) or abs(pixels.float().mean().item() - 200) > 3:
        raise RuntimeError(f"a grey JPEG of 200 came back as {tuple(pixels.shape)}, mean {pixels.float().mean():.0f}")
    mixed = _device() == "cuda"
    return [
        Finding(
            "loader",
            f"DALI {'mixed' if mixed else 'cpu'}",
            "decodes on the GPU" if mixed else "no CUDA device: decodes on the CPU",
        )
    ]


def other_images() -> list[Finding]:
    """What DALI does not decode: grey of 16 bits as TIFF, transparency as PNG."""
    import imagecodecs
    import numpy as np
    import PIL
    import tifffile
    from PIL import Image

    from pplfast.data.decoding import read_pixels

    with tempfile.TemporaryDirectory() as folder:
        deep, clear = Path(folder) / "deep.tif", Path(folder) / "clear.png"
        tifffile.imwrite(deep, np.full((8, 12), 40_000, np.uint16), compression="lzw")
        Image.new("RGBA", (12, 8), (0, 0, 0, 51)).save(clear)
        found = [int(value) for path in (deep, clear) for value in np.unique(read_pixels(path))]
    if found != [156, 204]:  # 40,000 of 65,535, and a fifth of black on white
        raise RuntimeError(f"a 16-bit TIFF and a transparent PNG came back as {found}, not as 156 and 204")
    kept = f"Pillow {PIL.__version__}, tifffile {tifffile.__version__}, imagecodecs {imagecodecs.__version__}"
    return [Finding("other images", kept, "what DALI does not decode, in processes: docs/how-to/images.md")]


def training() -> list[Finding]:
    """One optimizer step of the trainer's own engine on a network of six weights."""
    import torch
    from torch import nn

    from pplfast.cluster.ranks import start_ranks
    from pplfast.recipe import OptimConfig
    from pplfast.train.engine import set_learning_rate, start_engine

    torch.set_num_threads(1)
    ranks = start_ranks()
    model: Any = nn.Sequential()
    model.add_module("backbone", nn.Linear(2, 2))
    model.add_module("head", nn.Linear(2, 1))
    engine = start_engine(model, OptimConfig(batch=1, precision="bf16"), ranks)
    set_learning_rate(engine, 0.1)
    before = model.head.weight.detach().clone()
    engine.backward(engine(torch.ones(1, 2, device=ranks.device)).float().sum())
    engine.step()
    if torch.equal(before, model.head.weight):
        raise RuntimeError("a step of the engine changed nothing")
    backend = f"DeepSpeed on {ranks.device.type}, {torch.distributed.get_backend()}"
    return [Finding("training", backend, "one step of a one-rank engine; bf16 through torch_autocast")]


def crf() -> list[Finding]:
    import numpy as np

    from pplfast.labels.crf import dense_crf

    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = 255
    probabilities = np.full((2, 8, 8), 0.1, np.float32)
    probabilities[0, :, :4] = probabilities[1, :, 4:] = 0.9
    probabilities[:, 2, 2] = (0.4, 0.6)  # one wrong pixel inside the black half, which the CRF must correct
    labels = dense_crf(image, probabilities, "probabilities").argmax(0)
    if labels[:, :4].any() or not labels[:, 4:].all():
        raise RuntimeError("the CRF gives wrong labels on an 8 x 8 picture")
    return [Finding("dense CRF", "pydensecrf", "one process per core")]


def precision() -> list[Finding]:
    import torch

    from pplfast.precision import resolve_precision

    device = torch.device(_device())
    chosen = resolve_precision("auto", device)
    with torch.autocast(device.type, torch.bfloat16, enabled=chosen == "bf16"):
        value = torch.nn.functional.conv2d(torch.ones(1, 8, 4, 4, device=device), torch.ones(8, 8, 1, 1, device=device))
    if value.float().unique().tolist() != [8.0]:
        raise RuntimeError(f"a {chosen} convolution gives wrong values")
    if device.type == "cuda":
        why = "native on this GPU" if chosen == "bf16" else "this GPU has no native bf16"
    else:
        why = f"bf16 products are {'' if chosen == 'bf16' else 'not '}clearly faster than float32 ones on this CPU"
    return [Finding("precision auto", chosen, why)]


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def answer(parts: dict[str, str]) -> dict[str, Any]:
    """parts: engine -> MODULE:NAME of a function that returns findings, or the hardware. What it raises becomes a
    finding."""
    findings: list[Finding] = []
    machine: dict[str, str] = {}
    for engine, name in parts.items():
        module, _, function = name.partition(":")
        try:
            found = getattr(importlib.import_module(module), function)()
        except Exception as error:  # a probe may fail in any way that a broken installation can think of
            lines = str(error).strip().splitlines()
            findings.append(Finding(engine, "fails", f"{type(error).__name__}: {lines[0] if lines else ''}", ok=False))
        else:
            if isinstance(found, dict):
                machine = found
            else:
                findings += found
    return {"findings": [vars(finding) for finding in findings], "hardware": machine}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    faulthandler.register(signal.SIGUSR1, all_threads=False)
    json.dump(answer(dict(part.split("=", 1) for part in sys.argv[1:])), answers)
    answers.close()
    os._exit(0)  # some libraries wait for their threads at the end, and the answer is out


if __name__ == "__main__":
    main()
