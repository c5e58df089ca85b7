"""`pplfast doctor`."""

import argparse
import json


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Runs every part on a tiny input. Exit code 1 when one that is needed does not work."
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pplfast import doctor

    report = doctor.to_dict(doctor.examine())
    if args.json:
        print(json.dumps(report, indent=2))
        return 0 if report["ok"] else 1
    console = Console()
    for name, value in {**report["versions"], **report["hardware"]}.items():
        console.print(f"{name:<11} {value}", highlight=False, markup=False)
    table = Table("engine", "backend", "why")
    for finding in report["findings"]:
        style = "" if finding["ok"] else "red"
        table.add_row(*(Text(finding[key], style) for key in ("engine", "backend", "why")))
    console.print(table)
    console.print("everything works" if report["ok"] else "something needed does not work: see the rows that fail")
    return 0 if report["ok"] else 1
