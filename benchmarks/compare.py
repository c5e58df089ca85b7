"""Two results files side by side: what became slower beyond the noise."""

from pathlib import Path
from typing import Any

from pplfast.benchmarks.results import check_schema
from pplfast.checked import Table, read_table

REMEDY = "write it anew by `pplfast bench --out`"
MARGIN = 0.05  # a change smaller than this is never called one, however quiet the machine


def read_results(path: str) -> dict[str, Any]:
    """What `compare` reads of a results file. Raises UserError for a file that is damaged or none."""
    table = read_table(Path(path), REMEDY)
    check_schema({key: table.raw(key) for key in table}, path)
    hardware = table.table("hardware")
    return {
        "commit": table.text("commit"),
        "device": table.text("device"),
        "hardware": {"gpu": hardware.text("gpu")} if hardware.has("gpu") else {},
        "ratios": [
            _texts(row, "bench", "case", "numerator", "denominator")
            | {"ratio": _spread(row, "ratio"), "higher_is_better": row.flag("higher_is_better")}
            for row in table.tables("ratios")
        ],
        "rows": [
            _texts(row, "bench", "case", "contestant") | {"seconds": _spread(row, "seconds")}
            for row in table.tables("rows")
        ],
        "checks": [
            _texts(row, "bench", "case", "what") | {"passed": row.flag("passed"), "value": _value(row)}
            for row in table.tables("checks")
        ],
    }


def _texts(row: Table, *keys: str) -> dict[str, Any]:
    return {key: row.text(key) for key in keys}


def _spread(row: Table, key: str) -> dict[str, float]:
    spread = row.table(key)
    return {name: spread.number(name, low=1e-12) for name in ("median", "q20", "q80")}


def _value(row: Table) -> float:
    """Of a check: infinite where a result was no number."""
    return row.number("value") if row.raw("value") not in (float("inf"), None) else float("inf")


def compare(before: dict[str, Any], after: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(regressions, notes), one line each.

    A figure regressed when its 20/80 quantile ranges do not overlap and its median is worse by more than 5%. Ratios
    are always compared; times only between runs on the same GPU, since a CPU's times depend on what else it does.
    """
    regressions: list[str] = []
    notes: list[str] = []
    for key, old in _by(before["ratios"], "numerator", "denominator").items():
        new = _by(after["ratios"], "numerator", "denominator").get(key)
        if new is None:
            notes.append(f"{_name(key)}: not in the second file")
        else:
            _judge(_name(key), old["ratio"], new["ratio"], old["higher_is_better"], "x", regressions, notes)
    same_gpu = before["hardware"].get("gpu") is not None and before["hardware"]["gpu"] == after["hardware"].get("gpu")
    if same_gpu and before["device"] == after["device"] == "cuda":
        for key, old in _by(before["rows"], "contestant").items():
            new = _by(after["rows"], "contestant").get(key)
            if new is not None:
                _judge(_name(key), old["seconds"], new["seconds"], False, " s", regressions, notes)
    else:
        notes.append("times are not compared: that takes two runs on the same GPU")
    for row in after["checks"]:
        if not row["passed"]:
            regressions.append(f"{row['bench']} {row['case']}: check failed: {row['what']} {row['value']:.3g}")
    return regressions, notes


def _by(rows: list[dict[str, Any]], *names: str) -> dict[tuple[str, ...], dict[str, Any]]:
    return {tuple(row[name] for name in ("bench", "case", *names)): row for row in rows}


def _name(key: tuple[str, ...]) -> str:
    return f"{key[0]} {key[1]} {'/'.join(key[2:])}"


def _judge(
    name: str,
    old: dict[str, float],
    new: dict[str, float],
    higher_is_better: bool,
    unit: str,
    regressions: list[str],
    notes: list[str],
) -> None:
    change = new["median"] / old["median"] - 1
    apart = new["q80"] < old["q20"] or new["q20"] > old["q80"]
    if not apart or abs(change) <= MARGIN:
        return
    text = f"{name}: {old['median']:.3g}{unit} -> {new['median']:.3g}{unit} ({100 * change:+.0f}%)"
    if (change > 0) == higher_is_better:
        notes.append(f"better: {text}")
    else:
        regressions.append(text)
