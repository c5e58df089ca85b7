"""The HTML file of a run, and the pages of all its images."""

from pathlib import Path

from pplfast.files import StrPath, is_output, write_text
from pplfast.pool import default_jobs
from pplfast.report.final import final_labels
from pplfast.report.markup import NOTHING
from pplfast.report.page import page
from pplfast.report.pages import check_place, write_pages
from pplfast.report.product import product
from pplfast.report.view import read_run

IMAGES = 8  # whose steps in between are shown


def write_report(run: StrPath, out: StrPath | None = None, images: int = IMAGES, jobs: int | None = None) -> Path:
    """Write the report of a finished run folder, RUN/report.html by default; returns its path.

    The file is self-contained. All images with their final labels are on pages beside it, in RUN/report, or in
    NAME-pages for another `out` NAME.html; those of an earlier report are replaced.

    images: of how many the steps in between are shown. jobs: processes that draw, None for one per core; a script that
    calls this needs `if __name__ == "__main__":`. Raises UserError where `run` is no run folder, the run has not
    finished, or something cannot be written.
    """
    run = Path(run)
    report = run / "report.html" if out is None else Path(out)
    folder = pages_folder(run) if out is None else report.with_name(f"{report.stem}-pages")
    is_output(report)  # not a folder, which would be found when all is drawn
    check_place(folder)
    view = read_run(run)
    final = final_labels(view)
    shown = NOTHING
    if view.dataset is not None and len(view.dataset) and final is not None:
        pages = write_pages(view.dataset, final, folder, report, default_jobs() if jobs is None else jobs)
        shown = product(view.dataset, final, report, pages)
    write_text(report, page(view, images, shown))
    return report


def pages_folder(run: Path) -> Path:
    """Where the pages of a run's own report are."""
    return run / "report"


def check_report(run: Path) -> None:
    """UserError where the report of a run in this folder could not be written, for which nothing needs to be there."""
    is_output(run / "report.html")
    check_place(pages_folder(run))


__all__ = ["IMAGES", "check_report", "write_report"]
