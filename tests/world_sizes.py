"""One session of three runs, at ZeRO 0, 1 and 2, each of which stops after two steps and is resumed by the next
session.

Arguments: images, folder, then (from the launcher) the local rank. What a resumed session restores is compared with
the checkpoint and noted in FOLDER/restored.jsonl.
"""

import json
import sys
from pathlib import Path

from restored_state import restore_and_compare
from train_data import make_recipe, open_images

from pplfast.cluster.ranks import stop_ranks
from pplfast.train import TrainOptions, step, train, trainer

arguments = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
dataset, folder = open_images(Path(arguments[0])), Path(arguments[1])
steps = 0


def train_step(*rest):
    global steps
    steps += 1
    if steps > 2:  # the checkpoint of the second is written
        raise KeyboardInterrupt
    return step.train_step(*rest)


def restore_optimizer(engine, saved, ranks):
    found = restore_and_compare(engine, saved, ranks)
    if ranks.main:
        with open(folder / "restored.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")


trainer.train_step, trainer.restore_optimizer = train_step, restore_optimizer
for zero in (0, 1, 2):
    steps = 0
    recipe = make_recipe(optim={"zero": zero}, stages=[{"position": "group3", "grid": 2, "epochs": 5}])
    try:
        train(
            recipe,
            dataset,
            folder / f"zero{zero}",
            resume=True,
            options=TrainOptions(threads=1, log_every=1, checkpoint_every=2, lost_after=20),
        )
    except KeyboardInterrupt:
        continue
stop_ranks()
