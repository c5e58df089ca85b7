"""The site builds, its links lead somewhere, and what it generates is whole and current."""

import re
from pathlib import Path

import pytest
from docs_pages import ROOT, TOP, text_of

import pplfast
from pplfast.benchmarks import method_table, table
from pplfast.cli import COMMANDS, build_parser
from pplfast.data.names import OTHER_SUFFIXES, SUFFIXES

ENDING = re.compile(r"\.[a-z0-9]+\b")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)[^)]*\)")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """`mkdocs build --strict`: links, anchors, pages that the navigation lacks are errors."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    return folder


@pytest.mark.slow
def test_the_site_needs_nothing_from_elsewhere(site):
    fetched = re.compile(r"<(?:link|script|img|iframe)[^>]+(?:href|src)=\"?(?:https?:)?//[^\" >]+")
    for page in site.rglob("*.html"):
        assert not fetched.findall(page.read_text(encoding="utf-8")), page


@pytest.mark.slow
def test_every_command_and_every_public_name_is_there(site):
    commands, names = ((site / name).read_text(encoding="utf-8") for name in ("commands.html", "api.html"))
    for name in COMMANDS:
        assert f'<h2 id="pplfast-{name}' in commands, f"no command {name}"
    for parser in build_parser().every_command().values():
        for action in parser._actions:
            for flag in action.option_strings:
                known = flag in ("-h", "--help", "--version") or re.search(rf"<dt><code>(-\w, )?{flag}\b", commands)
                assert known, f"{parser.prog}: no option {flag}"
    assert "--local_rank" not in commands and "==SUPPRESS==" not in commands
    for name in pplfast.__all__:
        assert name.startswith("__") or f'id="pplfast.{name}"' in names, f"no name {name}"


@pytest.mark.slow
def test_every_setting_of_a_recipe_is_there(site):
    text = (site / "recipes.html").read_text(encoding="utf-8")
    keys = ("seed", "model.backbone", "stages.N.grid", "affinity.walk.beta", "segmentation.optim", "label.crf")
    for key in keys:
        assert f"<td><code>{key}</code></td>" in text, f"no setting {key}"
    assert re.search(r"<code>optim.batch</code></td>\s*<td>16</td>\s*<td>images per optimizer step", text)
    assert re.search(r"<code>stages.N.epochs</code></td>\s*<td></td>", text)  # has no default


@pytest.mark.parametrize("page", TOP)
def test_links_of_the_top_pages(page):
    assert (ROOT / page).is_file()
    for target in LINK.findall(text_of(page)):
        if not re.match(r"[a-z]+:", target):
            check_link(page, target)


def check_link(page: str, target: str) -> None:
    path, _, anchor = target.partition("#")
    found = (ROOT / page).parent / path if path else ROOT / page
    assert found.exists(), f"{page}: {target} does not exist"
    if anchor:
        headings = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.M)
        assert anchor in map(slug, headings), f"{page}: {target}: no such heading"


def slug(heading: str) -> str:
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower())).strip("-")


def test_a_link_to_nowhere_is_found():
    check_link("README.md", "docs/method.md#alignment")
    with pytest.raises(AssertionError, match="does not exist"):
        check_link("README.md", "docs/none.md")
    with pytest.raises(AssertionError, match="no such heading"):
        check_link("README.md", "docs/method.md#none")


@pytest.mark.parametrize("page, make", [("docs/performance.md", table), ("docs/results.md", method_table)])
def test_the_tables_are_those_of_the_results_files(page, make):
    text = text_of(page)
    current = table.replace_between_markers(text, make.table(), page)
    assert text == current, f"make it anew: python -m {make.__name__} --write {page}"


def test_the_page_of_images_names_every_ending():
    text = (ROOT / "docs" / "how-to" / "images.md").read_text(encoding="utf-8")
    named, read = text.partition("They are named where they end in")[2].partition("another ending than")[::2]
    assert set(ENDING.findall(named.partition("`;")[0])) == set(OTHER_SUFFIXES)
    assert set(ENDING.findall(read.partition("`,")[0])) == set(SUFFIXES)
