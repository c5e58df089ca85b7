"""What each part runs on here, found by running each part on a tiny input: importing proves little."""

import contextlib
import io
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = {
    "pplfast": "pplfast",
    "torch": "torch",
    "triton": "triton",
    "deepspeed": "deepspeed",
    "DALI": "nvidia-dali-cuda130",
    "pydensecrf": "pydensecrf2",
    "numpy": "numpy",
    "pillow": "pillow",
}


@dataclass(frozen=True)
class Finding:
    """One row of the table. ok: the part works; a part that does not work makes `pplfast doctor` exit with 1."""

    engine: str
    backend: str
    why: str
    ok: bool = True


def versions() -> dict[str, str]:
    """Installed versions; "missing" for a package that is not installed."""
    found = {"python": platform.python_version()}
    for name, package in PACKAGES.items():
        candidates = (package, "nvidia-dali-cuda120") if name == "DALI" else (package,)
        found[name] = next((version for one in candidates if (version := _version(one))), "missing")
    return found


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
    cpu = f"{_cpu_name()}, {len(os.sched_getaffinity(0))} cores usable"
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


def examine() -> list[Finding]:
    """Run every probe. None of them raises: a failure becomes a finding that names it."""
    findings = []
    for engine, probe in PROBES.items():
        noise = io.StringIO()
        try:
            with contextlib.redirect_stdout(noise):
                findings += probe()
        except Exception as error:  # a probe may fail in any way that a broken installation can think of
            text = str(error).strip().splitlines()
            findings.append(Finding(engine, "fails", f"{type(error).__name__}: {text[0] if text else ''}", ok=False))
    return findings


def _probe_kernels() -> list[Finding]:
    import torch

    from pplfast import kernels
    from pplfast.kernels import backend

    x = torch.arange(48, dtype=torch.float32).reshape(1, 2, 4, 6).to(_device())
    patches = kernels.patch_split(x, 2, 1)
    if not torch.equal(patches[3, :, :2, :3], x[0, :, 2:, 3:]):
        raise RuntimeError("patch_split gives wrong values")
    findings = [Finding(f"kernel {name}", chosen, why) for name, chosen, why in backend.describe()]
    return findings if _device() == "cuda" else [*findings, _examine_depthwise()]


def _examine_depthwise() -> Finding:
    from pplfast.cpu.native import library

    compiled = library()
    return Finding("depthwise convolution", "PyTorch" if compiled.functions is None else "C++", compiled.reason)


def _probe_loader() -> list[Finding]:
    import numpy as np
    from PIL import Image

    from pplfast.data.classes import ClassList
    from pplfast.data.dataset import Dataset
    from pplfast.data.inference import InferenceLoader

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.jpg"
        Image.fromarray(np.full((32, 48, 3), 200, np.uint8)).save(path)
        dataset = Dataset("probe", ("probe",), (path,), ClassList(("thing",), (1,)), None, (None,))
        batches = list(InferenceLoader(dataset, (1.0,), False, (0.0,) * 3, (1.0,) * 3, 1, 1, _device()))
    pixels = batches[0].images[0]
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


def _probe_training() -> list[Finding]:
    """One optimizer step of the engine in a process of its own, since DeepSpeed sets up its whole process."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        if _device() == "cpu":
            environment.setdefault("DS_ACCELERATOR", "cpu")
        done = subprocess.run(
            [sys.executable, "-c", _TRAINING, folder], env=environment, capture_output=True, text=True, timeout=300
        )
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise RuntimeError(f"exit code {done.returncode}: {lines[-1]}")
    accelerator, collective = done.stdout.split()[-2:]
    return [
        Finding(
            "training",
            f"DeepSpeed on {accelerator}, {collective}",
            "one step of a one-rank engine; bf16 through torch_autocast",
        )
    ]


_TRAINING = """
import sys, torch, deepspeed
from deepspeed.accelerator import get_accelerator
torch.set_num_threads(1)
backend = get_accelerator().communication_backend_name()
backend = backend if get_accelerator().device_name() == "cuda" else "gloo"
torch.distributed.init_process_group(backend, init_method=f"file://{sys.argv[1]}/store", rank=0, world_size=1)
model = torch.nn.Linear(2, 1)
engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    dist_init_required=False, config={"train_batch_size": 1, "torch_autocast": {"enabled": True, "dtype": "bfloat16"}})
before = model.weight.detach().clone()
engine.backward(engine(torch.ones(1, 2, device=engine.device)).float().sum())
engine.step()
assert not torch.equal(before.to(engine.device), model.weight), "the step changed nothing"
print(get_accelerator().device_name(), backend)
torch.distributed.destroy_process_group()
"""


def _probe_crf() -> list[Finding]:
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


def _probe_precision() -> list[Finding]:
    import torch

    from pplfast.precision import resolve_precision

    device = torch.device(_device())
    precision = resolve_precision("auto", device)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        value = torch.nn.functional.conv2d(torch.ones(1, 8, 4, 4, device=device), torch.ones(8, 8, 1, 1, device=device))
    if value.float().unique().tolist() != [8.0]:
        raise RuntimeError(f"a {precision} convolution gives wrong values")
    if device.type == "cuda":
        why = "native on this GPU" if precision == "bf16" else "this GPU has no native bf16"
    else:
        why = f"bf16 products are {'' if precision == 'bf16' else 'not '}clearly faster than float32 ones on this CPU"
    return [Finding("precision auto", precision, why)]


PROBES: dict[str, Callable[[], list[Finding]]] = {
    "kernels": _probe_kernels,
    "loader": _probe_loader,
    "training": _probe_training,
    "dense CRF": _probe_crf,
    "precision auto": _probe_precision,
}


def to_dict(findings: list[Finding]) -> dict[str, Any]:
    return {
        "versions": versions(),
        "hardware": hardware(),
        "findings": [vars(finding) for finding in findings],
        "ok": all(finding.ok for finding in findings),
    }


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
