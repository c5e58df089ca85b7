"""One rank of two that trains as test_train_runs.py does, and is told to end inside step 3. Arguments: images, out."""

import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")

from train_data import make_recipe, open_images

from pplfast import cli
from pplfast.cli import train as command
from pplfast.train import TrainOptions, step, train, trainer

images, out = sys.argv[1:]
steps = 0


def train_step(*arguments):
    global steps
    steps += 1
    if steps == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    return step.train_step(*arguments)


def run(args):
    recipe = make_recipe(stages=[{"position": "group3", "grid": 2, "epochs": 20}])
    options = TrainOptions(threads=1, log_every=1, lost_after=20)
    return command.report(lambda: train(recipe, open_images(Path(images)), out, options=options))


trainer.train_step, command.run = train_step, run
sys.exit(cli.main(["train", "--data", images, "--recipe", "demo", "--out", out]))
