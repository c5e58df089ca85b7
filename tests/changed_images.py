"""`make test-changes`: of 1,000 images 10 are replaced and the labels of 10 others corrected; the same commands again.

Minutes long, so not among the tests. Exactly these 20 may be done again, in each job of the chain that depends on them.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from pplfast.benchmarks.job_kill import JOBS, make_inputs
from pplfast.benchmarks.label_data import image_id
from pplfast.jobs.manifest import read_manifest

IMAGES, CHANGED = 1000, 10


def run(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "pplfast", *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr[-2000:]}")


def change(root: Path) -> tuple[set[str], set[str]]:
    """The ids of the replaced images, and of those whose labels are corrected."""
    step = IMAGES // (2 * CHANGED)
    replaced = [image_id(number) for number in range(0, IMAGES, 2 * step)]
    corrected = [image_id(number) for number in range(step, IMAGES, 2 * step)]
    for name, other in zip(replaced, replaced[1:] + replaced[:1], strict=True):
        path, taken = root / "images" / f"{name}.jpg", root / "images" / f"{other}.jpg"
        path.write_bytes(taken.read_bytes() + b"\n")  # other bytes in any case, as the drawn images repeat
    rows = (root / "labels.csv").read_text().splitlines()
    for number, row in enumerate(rows):
        image, _, labels = row.partition(",")
        if image.removesuffix(".jpg") in corrected:
            rows[number] = f"{image},{'cat' if labels == 'bus' else 'bus'}"
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return set(replaced), set(corrected)


def main() -> int:
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="pplfast-changes-") as folder:
        root = make_inputs(Path(folder), "walk", IMAGES)
        make_inputs(root / "more", "segment", 1)
        (root / "more" / "segmentation").rename(root / "segmentation")
        cams, outs = root / "cams", {name: root / f"out_{name}" for name in JOBS if name != "cam"}
        outs = {"cam": cams, **outs}  # the others read its files
        for name, out in outs.items():
            run(JOBS[name][0](root, out))
        before = {name: read_manifest(out) for name, out in outs.items()}
        replaced, corrected = change(root)
        for name, out in outs.items():
            run(JOBS[name][0](root, out))
            after = read_manifest(out)
            again = {key for key, record in after.items() if record["time"] != before[name][key]["time"]}
            expected = replaced | (set() if name == "segment" else corrected)  # it does not look at image labels
            ok = again == expected and all(record["state"] == "done" for record in after.values())
            wrong += not ok
            print(f"{'ok' if ok else 'FAILED'}: {name}: {len(again)} of {len(after)} images done again", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
