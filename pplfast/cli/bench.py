"""`pplfast bench`: throughput against the plain PyTorch reference, and the comparison of two results files."""

import argparse
from pathlib import Path

from pplfast.data.options import BRIEF, IN_FULL, OWN_CLASSES
from pplfast.errors import UserError

BENCHES = {
    "kernels": "each kernel against eager code",
    "train": "training steps at every position",
    "loader": "training images per second",
    "cam": "class activation maps over scales and flips",
    "label": "from files to pseudo labels, phase by phase",
    "crf": "the dense CRF on the device against pydensecrf, every preset",
    "walk": "the random walk against the dense matrix (minutes: the dense one is slow)",
    "all": "all of these",
}


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="bench", metavar="BENCH", required=True)
    for name, text in BENCHES.items():
        bench = actions.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ". Values are checked "
            "first; what fails its check gets no times, and the exit code is 1.",
        )
        bench.add_argument(
            "--out",
            metavar="FILE.json",
            help="write the results there, and plots (PNG) beside it (default: only printed)",
        )
        bench.add_argument("--quick", action="store_true", help="few rounds: shows that it works, not how fast it is")
        bench.add_argument("--no-compile", action="store_true", help="tuned reference without torch.compile")
        bench.add_argument(
            "--threads", type=int, default=0, metavar="N", help="CPU threads of torch (default: one per core)"
        )
        images = bench.add_argument_group(
            "data set", f"Images for loader, cam, label and walk, by the options of `{IN_FULL}`."
        )
        images.add_argument("--data", metavar="ROOT", help=f"{BRIEF['--data']} (default: a demo set, made on the spot)")
        images.add_argument("--list", default="", metavar="NAME", help=BRIEF["--list"])
        images.add_argument("--labels", default="auto", metavar="FILE", help=BRIEF["--labels"].format(default="auto"))
        images.add_argument(
            "--classes", default="", metavar="NAMES", help=BRIEF["--classes"].format(default=OWN_CLASSES)
        )
    compare = actions.add_parser(
        "compare",
        help="what became slower between two results files",
        description="Exit code 1 when a ratio, or a time on the same GPU, is worse beyond the noise.",
    )
    compare.add_argument("before", metavar="A.json")
    compare.add_argument("after", metavar="B.json")


def run(args: argparse.Namespace) -> int:
    return _compare(args) if args.bench == "compare" else _bench(args)


def _compare(args: argparse.Namespace) -> int:
    from pplfast.benchmarks.compare import compare, read_results

    before, after = (read_results(path) for path in (args.before, args.after))
    regressions, notes = compare(before, after)
    for note in notes:
        print(note)
    for regression in regressions:
        print(f"WORSE: {regression}")
    print(
        f"{len(regressions)} regressions between {args.before} ({before['commit']}) and {args.after} "
        f"({after['commit']})"
    )
    return 1 if regressions else 0


def _bench(args: argparse.Namespace) -> int:
    if args.out and Path(args.out).suffix != ".json":
        raise UserError(f"--out {args.out}: must end in .json")
    if args.threads < 0:
        raise UserError(f"--threads {args.threads}: must be 1 or more")

    from pplfast.data.dataset import DataConfig

    data = DataConfig(args.data, args.list, args.labels, args.classes) if args.data else None

    from pplfast.benchmarks.suite import run_benches

    names = [name for name in BENCHES if name != "all"] if args.bench == "all" else [args.bench]
    report = run_benches(
        names,
        data,
        quick=args.quick,
        compiled=not args.no_compile,
        threads=args.threads,
        out=Path(args.out) if args.out else None,
    )
    if args.out:
        from pplfast.benchmarks.plots import plot

        plots = plot(report.to_dict(), Path(args.out))
        print("written: " + ", ".join([args.out, *map(str, plots)]))
    failed = [check for check in report.checks if not check["passed"]]
    for check in failed:
        print(f"FAILED: {check['bench']} {check['case']}: {check['what']}: {check['value']:.3g}")
    return 1 if failed else 0
