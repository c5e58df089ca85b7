"""What a launcher's variables say of the ranks: read strictly, and the same on all of them before they work."""

import os
import re
import socket
import subprocess
import sys
import time

import pytest

from pplfast.cluster.meeting import LostRankError, Place, check_port, local_world, place_of_rank
from pplfast.errors import UserError

GOOD = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def place(**changes) -> Place:
    return place_of_rank({name: value for name, value in {**GOOD, **changes}.items() if value is not None})


def test_a_rank_by_its_variables():
    assert place() == Place(1, 2, "127.0.0.1", 29500)
    assert local_world(GOOD, 2) == 2 and local_world({**GOOD, "LOCAL_SIZE": "1"}, 2) == 1
    assert local_world({**GOOD, "LOCAL_WORLD_SIZE": "", "LOCAL_SIZE": "1"}, 2) == 1


@pytest.mark.parametrize("name", ("RANK", "WORLD_SIZE", "MASTER_PORT"))
@pytest.mark.parametrize("value", ("", "x", "-1", "1.5", " 1", "1\n", "٣", "9" * 5000, "70000", None))
def test_variables_that_are_no_number_or_none_that_can_be(name, value):
    with pytest.raises(UserError) as error:
        place(**{name: value})
    assert (
        re.match(f"^{name}[:= ]", str(error.value)) and str(error.value).isprintable() and len(str(error.value)) < 300
    )


def test_a_rank_beyond_the_last():
    with pytest.raises(UserError, match="^RANK=2: must be 0 to 1"):
        place(RANK="2")
    with pytest.raises(UserError, match="^LOCAL_WORLD_SIZE='x': must be a number"):
        local_world({"LOCAL_WORLD_SIZE": "x"}, 2)


@pytest.mark.parametrize("address", ("0.0.0.0", "127.0.0.1", "::"))
def test_a_port_in_use_is_said_at_once(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as taken:
        taken.bind((address, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LostRankError, match=f"^port {port} on {socket.gethostname()} is in use.* MASTER_PORT"):
            check_port(port)
    check_port(port)


def start(rank: int, world: int, port: int) -> subprocess.Popen:
    code = (
        "import sys\nfrom pplfast.errors import UserError\nfrom pplfast.cluster.ranks import start_ranks\n"
        "try:\n    start_ranks(timeout=30)\n"
        "except UserError as error:\n    print(error, file=sys.stderr)\n    sys.exit(error.exit_code)\n"
    )
    environment = dict(os.environ, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_PORT=str(port))
    environment |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
def test_ranks_that_were_told_of_different_numbers_of_ranks():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begin = time.monotonic()
    processes = [start(0, 2, port), start(1, 3, port)]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    host = socket.gethostname()
    for error in errors:
        assert f"WORLD_SIZE is 2 on {host} (rank 0) and 3 on {host} (rank 1)" in error
    assert [process.returncode for process in processes] == [2, 2] and time.monotonic() - begin < 25


@pytest.mark.slow
def test_a_training_whose_port_is_taken_says_so():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = start(0, 2, taken.getsockname()[1])
        _, error = process.communicate(timeout=60)
    assert process.returncode == 75 and "is in use" in error and "no answer" not in error
