"""A CUDA device that computes nothing: fake tensors on it go through autograd, autocast and the kernels' wrappers."""

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("fake_cuda.cpp")


def missing() -> str:
    """Why there can be no such device here; "" if there can."""
    if (_torch_folder() / "lib/libtorch_cuda.so").exists():
        return "needs torch's CPU build, without a CUDA of its own"
    return "" if _compiler() else "needs a C++ compiler; name one in CXX"


def build(folder: Path) -> Path:
    """Compile the device guard into `folder`. Raises CalledProcessError with the compiler's words on stderr."""
    library = folder / "fake_cuda.so"
    torch = _torch_folder()
    subprocess.run(
        [
            _compiler(),
            "-std=c++20",
            "-shared",
            "-fPIC",
            f"-I{torch / 'include'}",
            SOURCE,
            "-o",
            library,
            f"-L{torch / 'lib'}",
            "-lc10",
            "-ltorch_cpu",
        ],
        check=True,
    )
    return library


def switch_on(guard: Path) -> None:
    """Before the first import of torch: the guard has to be registered when autograd starts."""
    if "torch" in sys.modules:
        raise RuntimeError("torch is imported already; the fake device needs a process of its own")
    os.environ.pop("TRITON_INTERPRET", None)  # the wrappers are to launch as they do on a GPU
    for library in (_torch_folder() / "lib/libc10.so", _torch_folder() / "lib/libtorch_cpu.so", guard):
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def fake_mode() -> Any:
    """In which all tensors are fake; torch.tensor() makes its values on the CPU and copies them, as on a GPU."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    class Mode(FakeTensorMode):
        avoid_device_init = True

    return Mode(allow_non_fake_inputs=True)


def patch_torch(on_wait: Callable[[str], None]) -> None:
    """What torch's CPU build answers in Python about CUDA. on_wait: told of calls that wait for the device."""
    import torch
    import torch.cuda.amp.common

    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    answers: dict[str, Any] = {
        "is_available": True,
        "is_bf16_supported": True,
        "current_device": 0,
        "device_count": 1,
        "get_device_capability": (9, 0),
        "device_of": nullcontext(),
        "device": nullcontext(),
        "empty_cache": None,
        "stream": nullcontext(),
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, _answer=answer, **__: _answer)

    class Queue:
        """A stream or an event."""

        def __init__(self, *_, **__) -> None:
            pass

        def record(self, *_) -> None:
            pass

        def synchronize(self) -> None:
            on_wait("synchronize")

    torch.cuda.synchronize = lambda *_, **__: on_wait("torch.cuda.synchronize")
    torch.cuda.Stream = torch.cuda.Event = torch.cuda.current_stream = Queue


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "c++"))


def _torch_folder() -> Path:
    return Path(importlib.util.find_spec("torch").submodule_search_locations[0])
