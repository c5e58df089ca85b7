"""Every command and every Python block of the documentation: run on small images, or parsed by the real parsers.

A command that this file does neither run, nor parse, nor know by name fails.
"""

import argparse
import ast
import importlib
import os
import re
import shlex
import sys
from pathlib import Path
from unittest import mock

import docs_work
import pytest
from docs_pages import ROOT, Block, Command, blocks, commands, commands_of, is_python, pages, recipes, text_of

import pplfast
from pplfast.cli import build_parser
from pplfast.cli.train import recipe_from_arguments
from pplfast.models.registry import create
from pplfast.recipe.suggested import BASE

pytestmark = pytest.mark.usefixtures("one_thread")

PAGES = pages()
WHOLE = build_parser()
# Pages whose commands go on from what those of another page made.
AFTER = {
    "docs/how-to/labelling-job.md": "docs/tutorials/own-images.md",
    "docs/how-to/predict.md": "docs/tutorials/own-images.md",
    "docs/how-to/export.md": "docs/tutorials/own-images.md",
}
# Parsed, but not run here: a pattern of the whole command, and why.
NOT_RUN = {
    r"(\w+=\S+ )*pplfast train .*--logger .*(wandb|mlflow)": "not installed; tests/test_train_trackers.py",
    r"pplfast doctor": "tests/test_doctor.py runs it",
    r"pplfast export-model .*": "needs what writes ONNX; tests/test_export_model.py",
    r"pplfast export .*--format yolo .*": "needs OpenCV; tests/test_export_png.py",
    r"pplfast bench .*": "minutes; tests/test_bench_runs.py and test_bench_results.py run them",
    r"(DS_ACCELERATOR=cpu )?pplfast launch .*": "several ranks; tests/test_train_runs.py, test_jobs_label.py",
    r"pplfast run .*--(ranks|hostfile) .*": "several ranks; tests/test_run_ranks.py",
    r"pplfast .*s3://.*": "no such bucket; tests/test_shard_ranks.py and test_bench_shards.py",
    r"pplfast sweep .*": "many trainings; tests/test_sweep_runs.py",
    r"pplfast run .*--out runs/(photos-own|tuned)\b.*": "the same as runs/photos, with other values",
    r"pplfast run .*--out runs/voc-own": "the single steps after it do the same",
    r"pplfast train .*--out runs/less-memory": "a training like others",
}
# Known, neither parsed nor run.
OTHERS = {
    r"(\.|source) \.venv/bin/activate": "the shell's own",
    r"python -m (mkdocs|pre_commit|pip) .*": "tools of the developer; tests/test_docs_site.py builds the site",
    r"python -m pplfast\.benchmarks\.scaling .*": "writes into benchmarks/results; tests/test_bench_scaling.py",
    r"pip install 'pplfast\[(s3|onnx|export)\]'": "nothing is installed by tests",
    r"git clone .*|cd .*": "needs the repository's address",
}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """One folder for all pages: a page may go on from what another one made, and may not contradict it."""
    return tmp_path_factory.mktemp("docs")


@pytest.fixture(scope="module")
def done() -> set[str]:
    """Pages, and commands, that ran."""
    return set()


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(True for _ in commands(page))])
def test_commands_of_a_page(page, work, done, monkeypatch):
    monkeypatch.chdir(work)
    for name in (AFTER.get(page), page):
        if name and name not in done:
            run_page(name, work, done, monkeypatch)


def run_page(page: str, work: Path, done: set[str], monkeypatch) -> None:
    done.add(page)
    prepare(page, work)
    for block in blocks(text_of(page)):
        for command in commands_of(page, block):
            if command.text not in done:
                done.add(command.text)
                check(command)
        if is_python(block) and runs_python(page):
            monkeypatch.setattr(pplfast, "load_recipe", docs_work.load_small_recipe)
            exec(compile(block.text, f"{page}, line {block.line}", "exec"), {"__name__": "__main__"})
            monkeypatch.undo()
            monkeypatch.chdir(work)


def prepare(page: str, work: Path) -> None:
    """The data sets that the pages speak of, a CSV with the classes of this page, and the recipe of the pages."""
    if not (work / "photos").exists():
        docs_work.make_images(work)
        for recipe in own_recipes():
            (work / "my.toml").write_text(recipe)
    named = re.search(r"--labels labels.csv --classes (\S+)", text_of(page).replace("\\\n", " "))
    if named:
        docs_work.write_labels(work, named[1].split(","))


def own_recipes() -> list[str]:
    return [recipe for page in PAGES for recipe in recipes(text_of(page))]


def runs_python(page: str) -> bool:
    return page == "README.md" or page.startswith(("docs/tutorials/", "docs/how-to/"))


def check(command: Command) -> None:
    known = next((why for pattern, why in OTHERS.items() if re.fullmatch(pattern, command.text)), None)
    if known:
        return
    program, *rest = command.words
    if program == "pplfast":
        check_pplfast(command, rest)
    elif program == "make":
        targets = [word for word in rest if "=" not in word]
        for target in targets:
            assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.M), f"{command}: no target"
    elif program == "deepspeed":
        assert "--module" in rest and rest[rest.index("--module") + 1] == "pplfast", f"{command}: not of pplfast"
        parse(rest[rest.index("--module") + 2 :], command)
    elif program == "sbatch" or program.startswith("launch/"):
        script = rest.pop(0) if program == "sbatch" else program
        assert (ROOT / script).is_file(), f"{command}: no such script"
        parse(rest, command)
    elif program.startswith("benchmarks/"):
        assert (ROOT / program).is_file(), f"{command}: no such script"
    elif program == "python":
        check_python(command, rest)
    else:
        pytest.fail(f"{command}: is neither run nor listed in {Path(__file__).name}")


def check_python(command: Command, words: list[str]) -> None:
    if words[:2] == ["-m", "pytest"]:
        for path in (word for word in words[2:] if not word.startswith("-")):
            assert (ROOT / path).exists(), f"{command}: no {path}"
    elif words[0] == "-m" and words[1].startswith("pplfast.benchmarks."):
        arguments = words[2:]
        if "--write" in arguments:  # a copy: the page itself is compared by test_docs_site.py
            place = arguments.index("--write") + 1
            copy = Path(arguments[place]).name
            Path(copy).write_text((ROOT / arguments[place]).read_text())
            arguments[place] = copy
        assert importlib.import_module(words[1]).main(arguments) == 0, f"{command}: failed"
    else:
        assert (ROOT / words[0]).is_file(), f"{command}: no such script"


def check_pplfast(command: Command, words: list[str]) -> None:
    args = parse(words, command)
    if words[0] == "launch":
        parse(args.arguments, command)
    modules = [str(ROOT / path) for path in command.variables.get("PYTHONPATH", "").split(":") if path]
    with mock.patch.dict(os.environ, command.variables), mock.patch.object(sys, "path", modules + sys.path):
        recipe = None
        if hasattr(args, "recipe"):
            args.recipe = args.recipe or BASE  # what `run` finds for the data are changes of it
            recipe = recipe_from_arguments(args)  # its --set have to fit, too
        if any(re.fullmatch(pattern, command.text) for pattern in NOT_RUN):
            return
        code = docs_work.run(words, recipe)
    assert code == 0, f"{command}: exit code {code}"


def parse(words: list[str], command: Command) -> argparse.Namespace:
    try:
        return WHOLE.parse_args(words)
    except (SystemExit, argparse.ArgumentError):
        pytest.fail(f"{command}: is refused")


def test_every_exception_is_needed():
    texts = [command.text for page in PAGES for command in commands(page)]
    for pattern in NOT_RUN:
        assert any(re.fullmatch(pattern, text) for text in texts), f"no page has {pattern}"


@pytest.mark.parametrize("page", [page for page in PAGES if any(map(is_python, blocks(text_of(page))))])
def test_python_blocks_compile_and_name_what_exists(page):
    for block in filter(is_python, blocks(text_of(page))):
        tree = ast.parse(block.text, f"{page}, line {block.line}")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("pplfast"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{page}: {node.module} has no {alias.name}"
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pplfast":
                assert hasattr(pplfast, node.attr), f"{page}, line {block.line}: pplfast has no {node.attr}"


def test_recipes_in_the_pages_name_blocks_that_exist(tmp_path):
    assert own_recipes()
    for text in own_recipes():
        (tmp_path / "r.toml").write_text(text)
        recipe = pplfast.load_recipe(str(tmp_path / "r.toml"))
        backbone, _ = create(recipe.model.backbone, "none")
        for stage in recipe.stages:
            backbone.position(stage.position)


def test_options_in_the_text_exist():
    """`--option` in the text of a page, outside its blocks, is an option of some command or script."""
    known = "".join(path.read_text() for folder in ("pplfast/cli", "pplfast/data", "benchmarks", "tests/dry_gpu")
                    for path in (ROOT / folder).rglob("*.py"))  # fmt: skip
    for page in PAGES:
        text = re.sub(r"```.*?```", "", text_of(page), flags=re.S)
        for code in re.findall(r"`((?:pplfast |--)[^`\n]+)`", text):
            for option in re.findall(r"(?:^| )(--[a-z][a-z_-]*)", code):
                assert option == "--help" or f'"{option}"' in known, f"{page}: no command has {option}"


def test_a_block_gives_its_commands_and_no_others():
    text = "    make demo     # makes it\n    image,labels\n    A=1 B=2 pplfast run --x 'a b' \\\n        --y\n"
    found = list(commands_of("p.md", next(iter(blocks(text)))))
    assert [command.text for command in found] == ["make demo", "A=1 B=2 pplfast run --x 'a b' --y"]
    assert found[1].variables == {"A": "1", "B": "2"} and found[1].words[0] == "pplfast" and found[1].line == 4
    with pytest.raises(pytest.fail.Exception, match="neither run nor listed"):
        check(Command("p.md", 1, "curl x", {}, ("curl", "x")))
    with pytest.raises(pytest.fail.Exception, match="is refused"):
        parse(shlex.split("cam --data d --modle m --out o"), found[0])
    assert list(commands_of("p.md", Block(1, "text", "pplfast no command"))) == []
