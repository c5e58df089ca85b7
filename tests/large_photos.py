"""`make test-memory`: the whole chain on 60 photos, three of them of 27 megapixels, with a budget of 8 GiB.

Minutes long, so not among the tests. Nothing may be killed, and all processes together must stay below the budget.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

PHOTOS, LARGE = 60, 3
SIZE = (6000, 4500)
MEMORY = 8  # GiB
POLL = 0.2  # seconds


def make_photos(root: Path) -> list[str]:
    """A plain folder `root/photos` and `root/labels.csv`; the last photos are enlarged ones. Returns the classes."""
    pplfast = [sys.executable, "-m", "pplfast"]
    demo = [
        *pplfast,
        "data",
        "demo",
        "--out",
        str(root / "demo"),
        "--train",
        str(PHOTOS),
        "--val",
        "1",
        "--size",
        "500",
    ]
    subprocess.run(demo, check=True, stdout=subprocess.DEVNULL)
    names = [line.split("=")[0] for line in (root / "demo" / "classes.txt").read_text().split()]
    (root / "photos").mkdir()
    rows = ["image,labels"]
    for number, path in enumerate(sorted((root / "demo" / "JPEGImages").glob("train_*.jpg"))):
        target = root / "photos" / path.name
        if number < PHOTOS - LARGE:
            target.write_bytes(path.read_bytes())
        else:
            with Image.open(path) as image:
                image.resize(SIZE, Image.Resampling.BICUBIC).save(target, quality=90)
        found = _objects(root / "demo" / "Annotations" / f"{path.stem}.xml", names)
        rows.append(f"{path.name},{';'.join(found)}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return names


def _objects(path: Path, names: list[str]) -> list[str]:
    text = path.read_text()
    return [name for name in names if f"<name>{name}</name>" in text]


def processes_of(pid: int) -> list[int]:
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(each for word in words for each in processes_of(int(word)))]


def resident(pid: int) -> int:
    """Bytes; what processes share counts once for all of them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--memory", type=float, default=MEMORY, help="GiB (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pplfast-photos-") as folder:
        root = Path(folder)
        names = make_photos(root)
        command = [sys.executable, "-m", "pplfast", "run", "--data", str(root / "photos"), "--out", str(root / "run")]
        command += ["--labels", str(root / "labels.csv"), "--classes", ",".join(names)]
        command += ["--recipe", "own-images", "--memory", str(args.memory)]
        begin, most, at = time.monotonic(), 0, 0.0
        process = subprocess.Popen(command, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        while process.poll() is None:
            now = sum(resident(pid) for pid in processes_of(process.pid))
            if now > most:
                most, at = now, time.monotonic() - begin
            time.sleep(POLL)
        print(f"exit code {process.returncode} after {time.monotonic() - begin:.0f} s")
        print(f"most memory of all processes: {most / 2**30:.2f} GiB after {at:.0f} s; the budget: {args.memory:g} GiB")
        return 0 if process.returncode == 0 and most < args.memory * 2**30 else 1


if __name__ == "__main__":
    sys.exit(main())
