"""Training on two hosts: real network namespaces, real sshd, DeepSpeed's launcher over ssh, gloo between the ranks.

`make test-multinode` runs this; it takes minutes, so that `make test` does not. Each test prints its figures.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_data import CLASSES, RECIPE_FILE, open_images, write_images
from two_hosts import TwoHosts, Unavailable

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
PYTHON, DEEPSPEED = sys.executable, Path(sys.executable).with_name("deepspeed")
LOST_AFTER = 8  # seconds; stated on the command line
IMAGES, EPOCH, STEPS = 20, 3, 50  # images, steps of an epoch, steps of a run (of batch 8)
# `pplfast launch`, but each rank keeps a record of what it trains on.
RECORDED_LAUNCH = f"""
import sys
from pplfast import cli
from pplfast.cluster import launch
launch.PROGRAM = ({str(TESTS / "recorded_train.py")!r}, sys.argv.pop(1), sys.argv.pop(1))
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def hosts():
    try:
        with TwoHosts() as hosts:
            yield hosts
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("multinode")
    write_images(folder / "data", IMAGES)
    (folder / "tiny.toml").write_text(RECIPE_FILE, encoding="utf-8")
    (folder / "hostfile").write_text("node-a slots=1\nnode-b slots=1\n", encoding="utf-8")
    # DeepSpeed exports these to the other hosts.
    (folder / "environment").write_text("DS_ACCELERATOR=cpu\nOMP_NUM_THREADS=1\nGLOO_SOCKET_IFNAME=cable\n")
    return folder


@pytest.fixture(scope="module")
def environment(folder) -> dict[str, str]:
    return dict(
        os.environ,
        DS_ACCELERATOR="cpu",
        CUDA_VISIBLE_DEVICES="",
        OMP_NUM_THREADS="1",
        GLOO_SOCKET_IFNAME="cable",
        DS_ENV_FILE=str(folder / "environment"),
    )


def train_arguments(folder: Path, out: Path) -> list[str]:
    data = folder / "data"
    return [
        "train",
        "--data",
        str(data),
        "--labels",
        str(data / "labels.csv"),
        "--classes",
        CLASSES,
        "--recipe",
        str(folder / "tiny.toml"),
        "--set",
        "stages.0.epochs=10",
        "--set",
        "stages.1.epochs=6.667",
        "--out",
        str(out),
        "--threads",
        "1",
        "--log-every",
        "1",
        "--checkpoint-every",
        "4",
        "--lost-after",
        str(LOST_AFTER),
        "--stuck-after",
        "120",
    ]


def complete(process: subprocess.Popen) -> str:
    """Its standard error; fails unless it ends well."""
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors[-4000:]
    return errors


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


def differing(out: Path, other: Path) -> list[str]:
    weights, expected = (load_file(path / "classifier.safetensors") for path in (out, other))
    assert weights.keys() == expected.keys()
    return [name for name in weights if not torch.equal(weights[name], expected[name])]


@pytest.fixture(scope="module")
def two_hosts_run(hosts, folder, environment) -> Path:
    """50 steps on two hosts of one rank each, without a break, by the plain DeepSpeed command."""
    out = folder / "two-hosts"
    process = hosts.start(
        "node-a",
        [PYTHON, DEEPSPEED, "--hostfile", folder / "hostfile", "--module", "pplfast", *train_arguments(folder, out)],
        env=environment,
        stderr=subprocess.PIPE,
    )
    assert "2 ranks on cpu" in complete(process)
    return out


def test_two_hosts_equal_one_host_with_two_ranks(hosts, folder, environment, two_hosts_run, capsys):
    out = folder / "one-host"
    complete(
        hosts.start(
            "node-a",
            [PYTHON, DEEPSPEED, "--num_accelerators", "2", "--module", "pplfast", *train_arguments(folder, out)],
            env={**environment, "GLOO_SOCKET_IFNAME": "lo"},
            stderr=subprocess.PIPE,
        )
    )
    one, two = losses(out), losses(two_hosts_run)
    same = sum(a == b for a, b in zip(one, two, strict=True))
    with capsys.disabled():
        print(
            f"\ntwo hosts x 1 rank against one host x 2 ranks: {same} of {len(one)} losses identical, "
            f"{len(differing(out, two_hosts_run))} tensors of the classifier differ; last loss {one[-1]:.6f}"
        )
    assert len(one) == STEPS and one == two and not differing(out, two_hosts_run)


def test_labels_from_two_hosts(hosts, folder, environment, two_hosts_run, capsys):
    """`deepspeed --hostfile ... --module pplfast label` as it stands: each host labels a part."""
    data, out = folder / "data", folder / "labels"
    process = hosts.start(
        "node-a",
        [
            PYTHON,
            DEEPSPEED,
            "--hostfile",
            folder / "hostfile",
            "--module",
            "pplfast",
            "label",
            "--data",
            data,
            "--labels",
            data / "labels.csv",
            "--classes",
            CLASSES,
            "--model",
            two_hosts_run,
            "--out",
            out,
            "--value",
            "0.25",
            "--scales",
            "1",
            "--jobs",
            "1",
        ],
        env=environment,
        stderr=subprocess.PIPE,
    )
    complete(process)
    labels = sorted(path.stem for path in out.glob("*.png"))
    with capsys.disabled():
        print(f"\nlabel on two hosts: {len(labels)} of {IMAGES} images labelled")
    assert labels == sorted(path.stem for path in data.glob("*.jpg"))


class Lines:
    """The lines of a process's standard error, each with the time at which it came."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.lines: list[tuple[float, str]] = []
        self._thread = threading.Thread(target=self._read, args=(process,))
        self._thread.start()

    def _read(self, process: subprocess.Popen) -> None:
        for line in process.stderr:
            self.lines.append((time.time(), line))

    def find(self, text: str) -> tuple[float, str]:
        return next(((when, line) for when, line in self.lines if text in line), (0.0, ""))

    def join(self) -> str:
        self._thread.join(60)
        return "".join(line for _, line in self.lines)


def start_recorded(hosts, folder: Path, environment: dict[str, str], out: Path, plan: str) -> subprocess.Popen:
    return hosts.start(
        "node-a",
        [
            PYTHON,
            "-c",
            RECORDED_LAUNCH,
            out.with_suffix(".record"),
            plan,
            "launch",
            "--hostfile",
            folder / "hostfile",
            "--restarts",
            "1",
            *train_arguments(folder, out),
        ],
        env={**environment, "PYTHONPATH": str(TESTS)},
        stderr=subprocess.PIPE,
    )


def steps_trained(record: Path) -> dict[int, list[int]]:
    """Global step -> images, of the session whose result the run kept: the last one that did the step."""
    files = sorted(record.glob("rank?.jsonl"))
    ranks = [[json.loads(line) for line in path.read_text().splitlines()] for path in files]
    last: dict[int, tuple[int, list[int]]] = {}
    sessions = sorted({line["session"] for line in ranks[0]})
    for lines in ranks:
        # The ranks of one session start within seconds of each other; the next session starts much later.
        for line in lines:
            session = max(k for k, start in enumerate(sessions) if line["session"] > start - 5)
            step = line["step"] + (30 if line["stage"] else 0)
            if step not in last or session > last[step][0]:
                last[step] = (session, [])
            if session == last[step][0]:
                last[step][1].extend(line["images"])
    return {step: images for step, (_, images) in sorted(last.items())}


def assert_each_image_once(record: Path) -> int:
    steps = steps_trained(record)
    assert list(steps) == list(range(STEPS))
    for first in range(0, STEPS - STEPS % EPOCH, EPOCH):
        images = [image for step in range(first, first + EPOCH) for image in steps[step]]
        assert sorted(images) == list(range(IMAGES)), f"epoch {first // EPOCH + 1}"
    return STEPS // EPOCH


def test_a_host_cut_off_in_mid_stage(hosts, folder, environment, two_hosts_run, capsys):
    """The cable is taken out behind step 14 of 30 of the first stage; node-a alone finishes the run."""
    out = folder / "cut"
    process = start_recorded(hosts, folder, environment, out, "none")
    lines = Lines(process)
    try:
        record = out.with_suffix(".record") / "rank0.jsonl"
        while process.poll() is None and not (record.exists() and len(record.read_text().splitlines()) >= 14):
            time.sleep(0.05)
        hosts.cut()
        cut = time.time()
        process.wait(300)
    finally:
        hosts.mend()
    text = lines.join()
    assert process.returncode == 0, text[-4000:]
    named, line = lines.find("rank 1 on node-b gave no sign of life")
    ended, _ = lines.find("attempt 1 ended")
    assert named and ended, text[-4000:]
    assert "node-b: no answer by ssh; going on with node-a" in text and "continuing after step 12" in text
    whole = losses(two_hosts_run)
    epochs = assert_each_image_once(out.with_suffix(".record"))
    difference = abs(losses(out)[-1] - whole[-1]) / whole[-1]
    with capsys.disabled():
        print(
            f"\nhost cut off: named after {named - cut:.1f} s (stated: {LOST_AFTER} s), ended everywhere after "
            f"{ended - cut:.1f} s\n  {line.strip()}\n  each image once in each of {epochs} epochs; last loss "
            f"{losses(out)[-1]:.6f} against {whole[-1]:.6f} uninterrupted ({difference:.2e} relative)"
        )
    assert named - cut < LOST_AFTER and len(losses(out)) == STEPS
    assert losses(out) == pytest.approx(whole, rel=5e-3)


def test_a_killed_rank_on_the_other_host(hosts, folder, environment, two_hosts_run, capsys):
    """SIGKILL inside step 14; both hosts answer: the restart has two ranks again, and repeats the run exactly."""
    out = folder / "killed"
    process = start_recorded(hosts, folder, environment, out, "1:14:kill")
    lines = Lines(process)
    process.wait(400)
    text = lines.join()
    record = out.with_suffix(".record")
    [misfortune, *_] = [json.loads(line) for line in (record / "misfortune.jsonl").read_text().splitlines()]
    named, line = lines.find("rank 1 on node-b gave no sign of life")
    assert process.returncode == 0 and named, text[-4000:]
    epochs = assert_each_image_once(record)
    assert named - misfortune["time"] < LOST_AFTER
    with capsys.disabled():
        print(
            f"\nrank killed: named after {named - misfortune['time']:.1f} s (stated: {LOST_AFTER} s)\n  "
            f"{line.strip()}\n  each image once in each of {epochs} epochs; "
            f"{sum(a == b for a, b in zip(losses(out), losses(two_hosts_run), strict=True))} of {STEPS} losses and "
            f"all but {len(differing(out, two_hosts_run))} tensors identical to the uninterrupted run"
        )
    assert losses(out) == losses(two_hosts_run) and not differing(out, two_hosts_run)


def test_sigterm_to_the_launch_ends_both_hosts(hosts, folder, environment):
    out = folder / "ended"
    process = start_recorded(hosts, folder, environment, out, "none")
    lines = Lines(process)
    record = out.with_suffix(".record") / "rank1.jsonl"
    while process.poll() is None and not (record.exists() and record.read_text().count("\n") >= 2):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143, lines.join()[-4000:]
    found = subprocess.run(["pgrep", "-f", str(out)], capture_output=True, text=True)
    assert found.stdout == "" and "SIGTERM: ending all ranks" in lines.join() and "attempt" not in lines.join()


def test_two_one_and_two_ranks_at_every_zero_stage(hosts, folder, environment, capsys):
    """Three sessions on 2, 1 and 2 hosts of a run that is in mid-stage all the time, at ZeRO 0, 1 and 2."""
    out, images = folder / "worlds", folder / "data"
    out.mkdir()
    open_images(images)
    script = [TESTS / "world_sizes.py", images, out]
    two = [PYTHON, DEEPSPEED, "--hostfile", folder / "hostfile", *script]
    one = [PYTHON, DEEPSPEED, "--num_accelerators", "1", *script]
    for command in (two, one, two):
        complete(hosts.start("node-a", command, env={**environment, "PYTHONPATH": str(TESTS)}, stderr=subprocess.PIPE))
    found = [json.loads(line) for line in (out / "restored.jsonl").read_text().splitlines()]
    with capsys.disabled():
        print()
        for line in found:
            print(
                f"ZeRO {line['zero']}, resumed on {line['world']} rank(s): {line['identical']} of {line['tensors']} "
                f"tensors ({line['momentum']} of them momentum) are bitwise those saved"
            )
    assert [(line["world"], line["zero"]) for line in found] == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    assert all(line["identical"] == line["tensors"] and line["same_names"] and line["momentum"] for line in found)
