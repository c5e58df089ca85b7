"""How long a data-parallel step takes on N GPUs: a few lines of arithmetic, each term named and measurable.

    step(N) = compute + exposed reduction + gathering of the parameters (ZeRO 1 and 2)

The reduction goes over a hierarchy: scatter within a node, all-reduce between nodes, gather within a node. It overlaps
with the backward pass from the first full bucket on; what does not fit there, and the last bucket, are exposed. Left
out: stragglers, congestion, and the loader.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """One direction of one GPU's (or one node's) connection."""

    name: str
    bytes_per_second: float  # usable, not of the data sheet
    latency: float  # seconds per message, with the collective library's part


@dataclass(frozen=True)
class Cluster:
    inner: Link  # between the GPUs of a node
    outer: Link  # of a whole node
    per_node: int


@dataclass(frozen=True)
class Work:
    """What one rank does in a step; measured (or, for a GPU that is not here, computed) on one."""

    name: str
    compute: float  # seconds of a step on one GPU, without communication
    backward: float  # the share of it that is backward pass
    gradients: int  # trained parameters
    reduce_bytes: int = 4  # of a gradient on its way; 2: bf16
    bucket: int = 8_000_000  # gradients reduced together
    overlap: bool = True  # false: reduced after the backward pass, as at ZeRO 0 and on a CPU
    gathers: bool = True  # ZeRO 1 and 2: each rank updates a part, then all get all parts
    images: int = 16


def reduction_seconds(size: float, gpus: int, cluster: Cluster) -> float:
    """All-reduce of `size` bytes over `gpus` GPUs that fill nodes one by one."""
    inner, nodes = min(gpus, cluster.per_node), math.ceil(gpus / cluster.per_node)
    seconds = 0.0
    if inner > 1:
        seconds += 2 * (
            (inner - 1) / inner * size / cluster.inner.bytes_per_second + math.log2(inner) * cluster.inner.latency
        )
    if nodes > 1:  # all parts of a node share its link
        seconds += 2 * (
            (nodes - 1) / nodes * size / cluster.outer.bytes_per_second + math.log2(nodes) * cluster.outer.latency
        )
    return seconds


def step_seconds(work: Work, gpus: int, cluster: Cluster) -> float:
    """Seconds of a step on `gpus` GPUs with the same batch on each."""
    if gpus == 1:
        return work.compute
    buckets = max(1, math.ceil(work.gradients / work.bucket))
    size = work.gradients * work.reduce_bytes
    last = reduction_seconds(size / buckets, gpus, cluster)
    whole = buckets * last
    exposed = whole
    if work.overlap:
        room = work.backward * work.compute * (buckets - 1) / buckets
        exposed = max(last, whole - room)
    gathered = reduction_seconds(work.gradients * 4, gpus, cluster) / 2 if work.gathers else 0.0
    return work.compute + exposed + gathered


def efficiency(work: Work, gpus: int, cluster: Cluster) -> float:
    """Throughput of `gpus` GPUs over `gpus` times that of one."""
    return work.compute / step_seconds(work, gpus, cluster)
