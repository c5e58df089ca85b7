"""One self-contained HTML file of a run."""

from pathlib import Path

from pplfast.files import StrPath, write_text
from pplfast.report.page import page
from pplfast.report.view import read_run

IMAGES = 8  # in the gallery


def write_report(run: StrPath, out: StrPath | None = None, images: int = IMAGES) -> Path:
    """Write the report of a finished run folder, RUN/report.html by default; returns its path.

    Raises UserError where `run` is no run folder or the run has not finished.
    """
    run = Path(run)
    out = Path(out) if out is not None else run / "report.html"
    write_text(out, page(read_run(run), images))
    return out


__all__ = ["IMAGES", "write_report"]
