"""Trains as test_train_runs.py does, and is told to end inside step 3: SIGNAL goes to the ranks that are named.

Arguments: images, out, SIGNAL, the ranks ("0,1"), how often, then (from a launcher) the local rank. Exits as the
command line does.
"""

import os
import signal
import sys
import time
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")

from train_data import make_recipe, open_images

from pplfast import cli
from pplfast.cli import train as command
from pplfast.train import TrainOptions, step, train, trainer

images, out, number, told, count = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
steps = 0


def train_step(*arguments, **options):
    global steps
    steps += 1
    if steps == 3 and os.environ.get("RANK", "0") in told.split(","):
        for _ in range(int(count)):
            os.kill(os.getpid(), signal.Signals[number])
            time.sleep(0.8)
        if int(count) > 1:
            time.sleep(60)
    return step.train_step(*arguments, **options)


def run(args):
    recipe = make_recipe(stages=[{"position": "group3", "grid": 2, "epochs": 20}])
    options = TrainOptions(threads=1, log_every=1, lost_after=20)
    return command.report(lambda: train(recipe, open_images(Path(images)), out, options=options))


trainer.train_step, command.run = train_step, run
sys.exit(cli.main(["train", "--data", images, "--recipe", "demo", "--out", out]))
