"""`pplfast doctor`."""

import argparse
import json
import sys


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Runs every part on a tiny input. Exit code 1 when one that is needed does not work."
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from pplfast import doctor

    # On stderr, as all that is said on the way: stdout holds the answer.
    diagnosis = doctor.examine(lambda line: print(line, file=sys.stderr, flush=True))
    report = diagnosis.to_dict()
    if args.json:
        print(json.dumps(report, indent=2))
        return 0 if diagnosis.ok else 1
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for name, value in {**report["versions"], **report["hardware"]}.items():
        console.print(f"{name:<11} {value}", highlight=False, markup=False)
    table = Table("engine", "backend", "why")
    for finding in diagnosis.findings:
        table.add_row(
            *(Text(text, "" if finding.ok else "red") for text in (finding.engine, finding.backend, finding.why))
        )
    console.print(table)
    console.print("everything works" if diagnosis.ok else "something needed does not work: see the rows that fail")
    return 0 if diagnosis.ok else 1
