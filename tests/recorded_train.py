"""`pplfast` with a record of what each rank trained on, and one planned misfortune.

Arguments: FOLDER RANK:STEP:ACTION|none, then those of `pplfast`. After every step each rank appends a line to
FOLDER/rank<N>.jsonl: session, world, host, stage, step, ids. A restored state is collected again and compared,
bit by bit, with the checkpoint; the result goes to FOLDER/restored.jsonl. ACTION befalls that rank once, inside step
STEP of its session: kill (SIGKILL) or hang.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from restored_state import restore_and_compare

from pplfast.cli import main
from pplfast.train import step, trainer

arguments = sys.argv[1:]
launcher = [arguments.pop(0)] if arguments[0].startswith("--local_rank") else []
folder, plan = Path(arguments.pop(0)), arguments.pop(0)
folder.mkdir(parents=True, exist_ok=True)
unlucky, fatal, action = plan.split(":") if plan != "none" else (-1, -1, "")
session, steps, place = time.time(), 0, (0, 0)


def append(name: str, line: dict) -> None:
    with open(folder / name, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def seed_step(seed, stage, number, rank):
    global place
    place = (stage, number)
    step.seed_step(seed, stage, number, rank)


def train_step(engine, batches, *rest):
    global steps
    ranks = rest[3]
    steps += 1
    if steps == int(fatal) and ranks.rank == int(unlucky) and not (folder / "misfortune.jsonl").exists():
        append("misfortune.jsonl", {"time": time.time(), "action": action, "step": steps})
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "hang":
            time.sleep(3600)
    result = step.train_step(engine, batches, *rest)
    images = [int(i) for batch in batches for i, weight in zip(batch.indices, batch.weights, strict=True) if weight]
    append(
        f"rank{ranks.rank}.jsonl",
        {
            "session": session,
            "world": ranks.world,
            "host": socket.gethostname(),
            "stage": place[0],
            "step": place[1],
            "images": images,
        },
    )
    return result


def restore_optimizer(engine, saved, ranks):
    found = restore_and_compare(engine, saved, ranks)
    if ranks.main:
        append("restored.jsonl", found)


trainer.seed_step, trainer.train_step, trainer.restore_optimizer = seed_step, train_step, restore_optimizer
if __name__ == "__main__":
    sys.exit(main(launcher + arguments))
