"""Every job on images by two checkouts in turns, on one rank: seconds of the old over those of the new.

    python benchmarks/jobs_old_new.py OLD NEW [--images N] [--rounds N] [--out FILE.json] [--only cam walk ...]

Each is its command line as a user calls it (CHECKOUT/.venv/bin/pplfast), on drawn images and networks of
random weights. Two figures: the whole command, and the time from its first output file to its last.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIRST = 8  # images of a batch, whose files come together: the span counts from the last of the first batch


def commands(root: Path) -> dict[str, list[str]]:
    data = ["--data", str(root / "data"), "--list", "val"]
    cams = ["--cams", str(root / "cams")]
    return {
        "cam": ["cam", *data, "--model", str(root / "model"), "--scales", "0.5,1,1.5", "--precision", "fp32"],
        "label": [
            "label",
            *data,
            "--model",
            str(root / "model"),
            "--scales",
            "1",
            "--value",
            "0.4",
            "--precision",
            "fp32",
        ],
        "label_cams": ["label", *data, *cams, "--value", "0.4"],
        "walk": ["refine", "walk", *data, *cams, "--model", str(root / "boundary")],
        "segment": ["segment", "test", *data, "--model", str(root / "segmentation"), "--scales", "0.75,1,1.25"],
    }


def prepare(root: Path, images: int, size: int, new: Path) -> None:
    """By the new checkout: what both read."""
    pplfast = str(new / ".venv/bin/pplfast")
    subprocess.run(
        [
            pplfast,
            "data",
            "demo",
            "--out",
            str(root / "data"),
            "--train",
            "1",
            "--val",
            str(images),
            "--size",
            str(size),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    code = (
        "import sys; from pathlib import Path; from pplfast.benchmarks import label_data as d; "
        "from pplfast.data.classes import parse_classes; root = Path(sys.argv[1]); "
        "d.CLASSES = parse_classes(root / 'data/classes.txt').names; d.make_model(root / 'model', classes=d.CLASSES); "
        "d.make_boundary(root / 'boundary'); d.make_segmentation(root / 'segmentation')"
    )
    subprocess.run([str(new / ".venv/bin/python"), "-c", code, str(root)], check=True)


def timed(checkout: Path, words: list[str], out: Path) -> tuple[float, float]:
    """Seconds of the command, and from its first to its last output."""
    begin = time.perf_counter()
    done = subprocess.run(
        [str(checkout / ".venv/bin/pplfast"), *words, "--out", str(out)], capture_output=True, text=True
    )
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(f"{checkout}: {' '.join(words)}: {done.stderr[-2000:]}")
    times = sorted(path.stat().st_mtime for path in out.rglob("*") if path.suffix in (".npz", ".png"))
    return seconds, times[-1] - times[FIRST - 1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--size", type=int, default=500, help="pixels (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result = {"images": args.images, "size": args.size, "cores": os.cpu_count(), "ratios": {}}
    with tempfile.TemporaryDirectory(prefix="pplfast-jobs-") as folder:
        root = Path(folder)
        prepare(root, args.images, args.size, args.new.resolve())
        works = commands(root)
        for number, name in enumerate(works if args.only is None else args.only):
            # The new job reads the CAMs of the new checkout, the old one those of the old.
            found: dict[str, list[tuple[float, float]]] = {"old": [], "new": []}
            for turn in range(args.rounds):
                for side in ("old", "new") if turn % 2 == 0 else ("new", "old"):
                    checkout = (args.old if side == "old" else args.new).resolve()
                    cams = root / f"cams_{side}"
                    if "--cams" in works[name] and not cams.is_dir():
                        timed(checkout, works["cam"], cams)
                    words = [str(cams) if word == str(root / "cams") else word for word in works[name]]
                    found[side].append(timed(checkout, words, root / f"out_{number}_{side}_{turn}"))
            ratios = {
                what: [old[k] / new[k] for old, new in zip(found["old"], found["new"], strict=True)]
                for k, what in enumerate(("command", "outputs"))
            }
            result["ratios"][name] = ratios
            medians = {side: [round(statistics.median(v[k] for v in found[side]), 1) for k in (0, 1)] for side in found}
            spread = {what: f"{statistics.median(v):.3f} ({min(v):.3f} to {max(v):.3f})" for what, v in ratios.items()}
            print(f"{name}: old / new {spread}; seconds (command, outputs): {medians}", flush=True)
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
