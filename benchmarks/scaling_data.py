"""What training and labelling ask of the place that the images lie in, and which limit is met first: arithmetic.

    bytes a second of a host = GPUs of a host x images a second of a GPU x bytes of an image

An image is one GET of a range of its shard. Left out: masks, labels that are written, caches, and the gradients, which
have a network of their own.
"""

import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

MB, GB = 1e6, 1e9
IMAGE_BYTES = 100e3  # a photo of 500 x 375 pixels in VOC 2012, about
COUNTS = (8, 16, 32, 64, 128, 256, 512)
PER_HOST = 8

# Of S3, as Amazon's user guide says ("Best practices design patterns: optimizing Amazon S3 performance"): at least
# 5,500 GETs a second of each prefix (a folder), 100 to 200 ms until the first byte, 85 to 90 MB/s of a connection.
PREFIX_GETS, FIRST_BYTE, CONNECTION = 5500, 0.2, 85 * MB
# Of the client: one core of an AMD EPYC, 1.5 to 2.6 ms as other work left it alone; `--measure-reads`,
# benchmarks/results/logs/cpu_reads.json.
CLIENT_SECONDS = 2e-3
THREADS = (1, 16, 64)  # of the measurement
GETS, RANGE = 1000, 100_000


@dataclass(frozen=True)
class Need:
    """images: a second, of one GPU that never waits for them."""

    name: str
    images: float


@dataclass(frozen=True)
class Limit:
    """images: a second, of one rank, of one host or of all hosts together."""

    name: str
    scope: str  # "rank", "host", "all"
    images: float

    def hosts(self, need: Need) -> float:
        """Up to how many hosts it does not hold them up; 0: it always does; infinity: it never does."""
        if self.scope == "all":
            return self.images // (PER_HOST * need.images)
        ranks = 1 if self.scope == "rank" else PER_HOST
        return math.inf if ranks * need.images <= self.images else 0


# Of the one GPU that there was, an NVIDIA H200; docs/journal.md.
MEASURED = (
    Need("training, wrn38 448x448 batch 16 K=2, as measured on an H200", 163.9),
    Need("training, efficientnet_lite0 448x448 batch 16, as measured on an H200", 16 / 42e-3),
)


def limits(readers: int, image_bytes: float) -> tuple[Limit, ...]:
    """readers: threads of a rank that read. Networks at 80 % of their rate, as those of the gradients."""
    seconds = read_seconds(image_bytes)
    return (
        Limit(f"{readers} reads at once", "rank", readers / seconds),
        Limit("one core of the client", "rank", 1 / CLIENT_SECONDS),
        *(Limit(f"{rate} Gb/s of a host", "host", 0.8 * rate / 8 * GB / image_bytes) for rate in (25, 100)),
        # Data sheets: PCIe 3.0 and 4.0, four lanes.
        *(Limit(f"an NVMe drive of {rate} GB/s", "host", rate * GB / image_bytes) for rate in (3, 7)),
        Limit(f"{PREFIX_GETS} GET/s of a prefix", "all", PREFIX_GETS),
    )


def read_seconds(image_bytes: float) -> float:
    """Of one image, from the request to the last byte."""
    return FIRST_BYTE + image_bytes / CONNECTION


def predict_data(needs: Sequence[Need], readers: int, image_bytes: float) -> dict[str, Any]:
    """Rates by need and number of GPUs, and each limit's hosts (`Limit.hosts`; None: it is never met)."""
    rows = []
    for need in needs:
        for gpus in COUNTS:
            gets = gpus * need.images
            rows.append(
                {
                    "need": need.name,
                    "gpus": gpus,
                    "hosts": gpus // PER_HOST,
                    "bytes_per_second_of_a_host": PER_HOST * need.images * image_bytes,
                    "bytes_per_second": gets * image_bytes,
                    "gets_per_second": gets,
                    "prefixes": math.ceil(gets / PREFIX_GETS),
                }
            )
    known = limits(readers, image_bytes)
    return {
        "image_bytes": image_bytes,
        "first_byte_seconds": FIRST_BYTE,
        "bytes_per_second_of_a_connection": CONNECTION,
        "gets_per_second_of_a_prefix": PREFIX_GETS,
        "client_seconds": CLIENT_SECONDS,
        "readers": readers,
        "limits": [asdict(limit) for limit in known],
        "needs": [
            {
                **asdict(need),
                "reads_at_once": math.ceil(need.images * read_seconds(image_bytes)),
                "hosts": {
                    limit.name: None if math.isinf(limit.hosts(need)) else int(limit.hosts(need)) for limit in known
                },
            }
            for need in needs
        ],
        "rows": rows,
    }


def data_tables(data: dict[str, Any]) -> str:
    """Two tables in Markdown: what one host needs beside what there is; and all hosts."""
    rates = {limit["name"]: limit["images"] for limit in data["limits"] if limit["scope"] == "host"}
    lines = [
        "| work | images/s of a GPU | a host of 8 | of 25 Gb/s | of an NVMe drive of 3 GB/s | reads at once, a rank | "
        "hosts before a prefix is full |",
        "|---|---|---|---|---|---|---|",
    ]
    for need in data["needs"]:
        of_host = PER_HOST * need["images"]
        shares = [f"{of_host / rates[name]:.1%}" for name in ("25 Gb/s of a host", "an NVMe drive of 3 GB/s")]
        cells = (
            need["name"],
            f"{need['images']:.0f}",
            f"{of_host * data['image_bytes'] / MB:.0f} MB/s, {of_host:,.0f} GET/s",
            *shares,
            str(need["reads_at_once"]),
            str(need["hosts"][f"{PREFIX_GETS} GET/s of a prefix"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"| GET/s, prefixes on | {' | '.join(f'{gpus} GPUs' for gpus in COUNTS)} |", "|---" * 8 + "|"]
    for need in data["needs"]:
        own = [row for row in data["rows"] if row["need"] == need["name"]]
        cells = (need["name"], *(f"{row['gets_per_second']:,.0f}, {row['prefixes']}" for row in own))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measure_reads() -> list[dict[str, float]]:
    """GETs of ranges of an object on this machine by one process, with THREADS threads: what the client costs."""
    from pplfast.benchmarks.object_store import local_store
    from pplfast.storage import join, read_range, write_file

    found = []
    with local_store() as store:
        os.environ.update(store.environment)
        path = join(store.url, "x.bin")
        write_file(path, os.urandom(GETS * 1000 + RANGE))
        read_range(path, 0, 1)
        for threads in THREADS:
            with ThreadPoolExecutor(threads) as pool:
                cpu, begin = time.process_time(), time.perf_counter()
                list(pool.map(lambda number: read_range(path, 1000 * number, RANGE), range(GETS)))
                seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
            found.append(
                {"threads": threads, "gets_per_second": GETS / seconds, "client_cpu_seconds_per_get": cpu / GETS}
            )
    return found
