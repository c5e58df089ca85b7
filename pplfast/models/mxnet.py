"""MXNet `.params` files without mxnet: the list-of-arrays format, and WideResNet-38's names in it.

Layout, all little-endian, from NDArray::Save and NDArray::Load in mxnet's src/ndarray/ndarray.cc:
    uint64 0x112; uint64 reserved; uint64 count; the arrays; uint64 count; the names (uint64 length + bytes)
An array begins with a uint32 that is a version's magic number, or, in the oldest files, the number of dimensions:
    oldest  uint32 ndim, uint32 dims[ndim]
    V1      magic, uint32 ndim, int64 dims[ndim]
    V2, V3  magic, int32 storage type (0: dense), uint32 ndim, int64 dims[ndim]
and continues with int32 device type, int32 device id, int32 element type, data.
"""

import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pplfast.errors import UserError

LIST_MAGIC = 0x112
V1_MAGIC, V2_MAGIC, V3_MAGIC = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
DTYPES = {0: np.float32, 1: np.float64, 2: np.float16, 3: np.uint8, 4: np.int32, 5: np.int8, 6: np.int64}
MOST_DIMENSIONS = 32  # a larger number means that the file is not what it seems

BN_NAMES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}
UNIT = re.compile(r"(res|bn)(\d)(a|b\d+)_(branch\w+?)_(weight|gamma|beta|moving_mean|moving_var)")
FINAL_NORM = re.compile(r"bn7_(gamma|beta|moving_mean|moving_var)")


def is_mxnet_file(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(8) == struct.pack("<Q", LIST_MAGIC)


def published_name(name: str) -> str:
    """WideResNet-38's PyTorch name of an MXNet tensor; a name of another kind is returned without its prefix.

    arg:res2a_branch2a_weight -> b2.conv_branch2a.weight; aux:bn2b1_branch2a_moving_var -> b2_1.bn_branch2a.running_var
    """
    name = name.removeprefix("arg:").removeprefix("aux:")
    if name == "conv1a_weight":
        return "conv1a.weight"
    if found := FINAL_NORM.fullmatch(name):
        return f"bn7.{BN_NAMES[found[1]]}"
    if found := UNIT.fullmatch(name):
        kind, group, unit, branch, last = found.groups()
        block = f"b{group}" if unit == "a" else f"b{group}_{unit[1:]}"
        return f"{block}.{'conv' if kind == 'res' else 'bn'}_{branch}.{BN_NAMES.get(last, last)}"
    return name


def read_params(path: Path) -> dict[str, Tensor]:
    """The arrays of a `.params` file by their MXNet names. Raises UserError on a damaged file."""
    try:
        return _Reader(path.read_bytes()).tensors()
    except (struct.error, ValueError) as error:
        raise UserError(f"{path}: not a readable MXNet .params file ({error}); fetch it again") from None


class _Reader:
    def __init__(self, data: bytes):
        self.data = data
        self.offset = 0

    def tensors(self) -> dict[str, Tensor]:
        self.take("QQ")  # magic, reserved
        arrays = [self.array() for _ in range(self.take("Q")[0])]
        names = [self.name() for _ in range(self.take("Q")[0])]
        if len(names) != len(arrays):
            raise ValueError(f"{len(arrays)} arrays but {len(names)} names")
        return dict(zip(names, arrays, strict=True))

    def take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{layout}", self.data, self.offset)
        self.offset += struct.calcsize(f"<{layout}")
        return values

    def name(self) -> str:
        (length,) = self.take("Q")
        if length > len(self.data) - self.offset:
            raise ValueError("it ends within a name")
        self.offset += length
        return self.data[self.offset - length : self.offset].decode("utf-8")

    def array(self) -> Tensor:
        shape = self.shape()
        _, _, flag = self.take("iii")  # device type, device id, element type
        if flag not in DTYPES:
            raise ValueError(f"unknown element type {flag}")
        dtype = np.dtype(DTYPES[flag]).newbyteorder("<")
        count = math.prod(shape)
        if count * dtype.itemsize > len(self.data) - self.offset:
            raise ValueError("it ends within an array")
        values = np.frombuffer(self.data, dtype, count, self.offset).reshape(shape)
        self.offset += count * dtype.itemsize
        return torch.from_numpy(values.astype(DTYPES[flag]))

    def shape(self) -> tuple[int, ...]:
        (first,) = self.take("I")
        if first in (V2_MAGIC, V3_MAGIC):
            (storage,) = self.take("i")
            if storage != 0:
                raise ValueError("it holds sparse arrays")
        dimensions, dim = (self.take("I")[0], "q") if first in (V1_MAGIC, V2_MAGIC, V3_MAGIC) else (first, "I")
        if not 0 < dimensions <= MOST_DIMENSIONS:
            raise ValueError(f"an array of {dimensions} dimensions")
        shape = self.take(f"{dimensions}{dim}")
        if min(shape) <= 0:
            raise ValueError(f"an array of shape {list(shape)}")
        return shape
