"""The dry GPU run: every case of table.py on a CUDA device that computes nothing. Exit code 1 where one fails.

python tests/dry_gpu/run.py [--only train/wrn38] [--fault D1 D12] [--json FILE]
"""

import argparse
import json
import sys
import tempfile
import time
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import machine
from table import TABLE, Limits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="the cases whose names begin like this")
    parser.add_argument("--fault", nargs="+", default=[], help="those of faults.py, each in the case where it shows")
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--guard", type=Path, help="the compiled device guard; else it is compiled now")
    arguments = parser.parse_args()
    if machine.missing():
        parser.error(machine.missing())
    with tempfile.TemporaryDirectory() as folder:
        machine.switch_on(arguments.guard or machine.build(Path(folder)))
    mode, results = start_torch(), {}
    for name, fault in cases(arguments):
        results[f"{fault} in {name}" if fault else name] = result = run_case(name, TABLE[name], mode, fault)
        print(line(name, TABLE[name], result), flush=True)
    failed = sum(bool(result["findings"]) for result in results.values())
    print(f"{len(results)} cases, {failed} failed, {time.process_time():.0f} s of processor time")
    if arguments.json:
        arguments.json.write_text(json.dumps({"cases": results, "seconds": time.process_time()}))
    return int(failed > 0)


def cases(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """(case, fault to put in) of each run."""
    if not arguments.fault:
        return [(name, "") for name in TABLE if name.startswith(arguments.only)]
    from faults import FAULTS

    return [(FAULTS[fault].case, fault) for fault in arguments.fault]


def line(name: str, limits: Limits, result: dict) -> str:
    row = (
        f"{name:44} {result['mib']:7.0f} of {limits.mib:5} MiB  {result['operators']:6} operators "
        f"{result['launches']:4} launches {result['waits']:2} waits {result['copies']:2} copies "
        f"{result['seconds']:5.1f} s"
    )
    return "\n".join([row, *(f"    FAILED: {finding}" for finding in result["findings"])])


def start_torch() -> Any:
    """The mode in which all tensors are fake; one for all cases, since the product keeps some tensors between calls."""
    import torch
    from watch import on_wait, patch_fake_tensors

    torch.set_num_threads(1)
    machine.patch_torch(on_wait)
    patch_fake_tensors()
    return machine.fake_mode()


def run_case(name: str, limits: Limits, mode: Any, fault: str) -> dict:
    """The figures of a case, and its findings: none if all is well."""
    import cases_labels
    import cases_train
    from faults import FAULTS
    from watch import Current, Watch

    kind, *arguments = name.split("/")
    prepare = (cases_train.KINDS | cases_labels.KINDS)[kind]
    begin, error = time.process_time(), []
    watch = Watch(FAULTS.get(fault))
    with mode:
        try:
            with FAULTS[fault].setup() if fault else nullcontext():
                step = prepare(*arguments)
            Current.watch = watch
            with watch:
                step()
        except Exception as problem:  # of whatever kind: it is this case's finding, and the others still run
            error = [f"{type(problem).__name__}: {problem}".split("\n")[0] + f" at {place(problem)}"]
        finally:
            Current.watch = None
    return {
        "findings": error + watch.report(limits),
        "mib": watch.peak / 2**20,
        "operators": watch.operators,
        "launches": watch.launches,
        "waits": watch.waits.total(),
        "copies": watch.copies.total(),
        "seconds": time.process_time() - begin,
    }


def place(problem: BaseException) -> str:
    frames = [
        frame
        for frame in traceback.extract_tb(problem.__traceback__)
        if "site-packages" not in frame.filename and Path(frame.filename).parent != Path(__file__).parent
    ]
    return f"{'/'.join(Path(frames[-1].filename).parts[-3:])}:{frames[-1].lineno}" if frames else "this folder"


if __name__ == "__main__":
    sys.exit(main())
