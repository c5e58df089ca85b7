"""Photos and a CSV of what each shows -> a label PNG for every photo, a network for new ones, and a report.

    python examples/own_images.py photos photos/labels.csv cat,dog runs/photos

What follows changes settings of the recipe, as --set does: affinity.epochs=4 segmentation.epochs=20
"""

import os
import sys
from pathlib import Path

import pplfast


def main(photos: str, labels: str, classes: str, out: str, *overrides: str) -> None:
    recipe = pplfast.load_recipe("own-images", overrides)
    data = pplfast.DataConfig(photos, labels=labels, classes=classes)

    dataset = pplfast.open_dataset(data)
    check = pplfast.check_dataset(dataset)
    for problem in check.problems:
        print(f"{problem.severity}: {problem.path}: {problem.message}")

    # Every step is done once: after an interruption the same call continues.
    config = pplfast.RunConfig(
        train=data, val=data, recipe=recipe, variants=recipe.variants, out=Path(out), jobs=os.cpu_count() or 1
    )
    pplfast.run_chain(config)
    print(f"{out}/ppl/labels_network/<id>.png: labels; {out}/report.html: the report")

    # The segmentation network needs no image labels: it takes any photo, here the first of the folder.
    labeller = pplfast.load_labeller(f"{out}/ppl/segmentation")
    found = labeller.labels(dataset.image_files[0])  # uint8 (H, W), 0 background
    for name, value in zip(labeller.classes.names, labeller.classes.ids, strict=True):
        print(f"{dataset.image_files[0].name}: {(found == value).mean():.1%} {name}")


if __name__ == "__main__":  # the CRF's processes import this file
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
