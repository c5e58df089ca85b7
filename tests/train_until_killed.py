"""Trains as test_train_runs.py does, and kills itself with SIGKILL. Arguments: images, out, and where: "step" (inside
step 6, the checkpoint of step 4 on the disk) or "write" (in the middle of the checkpoint of step 4)."""

import os
import signal
import sys
import threading
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")

from train_data import make_recipe, open_images

from pplfast.train import TrainOptions, checkpoint, step, train, trainer

images, out, place = sys.argv[1:]
steps, writes = 0, 0


def train_step(*arguments):
    global steps
    steps += 1
    result = step.train_step(*arguments)
    if steps == 6 and place == "step":
        for thread in threading.enumerate():
            if thread.name == "checkpoint":
                thread.join()  # the one of step 4
        os.kill(os.getpid(), signal.SIGKILL)
    return result


def write_json(*arguments):
    global writes
    writes += 1
    if writes == 2 and place == "write":
        os.kill(os.getpid(), signal.SIGKILL)
    plain_write(*arguments)


plain_write = checkpoint.write_json
trainer.train_step, checkpoint.write_json = train_step, write_json
recipe = make_recipe(
    model={"dropout": 0.5},
    optim={"batch": 4},
    stages=[{"position": "group3", "grid": 2, "epochs": 2}, {"position": "group5", "grid": 2, "epochs": 1}],
)
train(recipe, open_images(Path(images)), out, options=TrainOptions(threads=1, log_every=1, checkpoint_every=2))
