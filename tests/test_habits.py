"""The files that hold a project together: versions, targets, hooks, workflow, templates, and the tree's hygiene."""

import importlib.util
import re
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import hygiene
import pytest
import yaml

import pplfast

ROOT = Path(__file__).resolve().parent.parent
FORMS = sorted(path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
FOLDERS = ("pplfast", "kernels", "benchmarks", "tests", "docs", "launch", "examples", ".github", ".ci")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def parse(name: str) -> Any:
    return yaml.safe_load(read(name))


def targets() -> dict[str, str]:
    """Each target with the words that `make help` prints; "" for one without."""
    lines = re.findall(r"^([a-z][a-z-]*):[^=#\n]*(?:## (.*))?$", read("Makefile"), re.MULTILINE)
    return dict(lines)


# ---- versions


def test_version_changelog_and_citation_agree():
    heads = re.findall(r"^## \[([^\]]+)\](?: - (\S+))?$", read("CHANGELOG.md"), re.MULTILINE)
    assert heads[0] == ("Unreleased", "")
    assert heads[1][0] == pplfast.__version__
    dates = [date.fromisoformat(day) for _, day in heads[1:]]
    assert dates == sorted(dates, reverse=True)
    citation = parse("CITATION.cff")
    assert citation["version"] == pplfast.__version__
    assert citation["date-released"] == heads[1][1]


def test_changelog_has_only_the_kinds_of_keep_a_changelog():
    kinds = re.findall(r"^### (.*)$", read("CHANGELOG.md"), re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_citation_names_the_software_and_the_paper():
    citation = parse("CITATION.cff")
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()
    [paper] = citation["references"]
    assert paper["title"] in read("README.md").replace("\n", " ")
    assert "2209.07828" in paper["url"]


# ---- make


def test_every_target_is_explained_by_make_help():
    phony = re.search(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)[1].split()
    known = targets()
    assert set(phony) == set(known)
    assert not [name for name in phony if not known[name]]
    assert next(iter(known)) == "demo"  # what `make` alone does


def test_make_test_begins_with_check_and_repeats_none_of_it():
    text = read("Makefile")
    assert re.search(r"^test: \$\(TOOLS\) check ", text, re.MULTILINE)
    runs = re.findall(r"pytest -m (\"[^\"]*\"|\w+)", text)
    assert runs == ['"not slow"', "slow"]


@pytest.mark.parametrize("name", ("README.md", "CONTRIBUTING.md", ".github/pull_request_template.md"))
def test_make_targets_that_are_named_exist(name):
    named = re.findall(r"\bmake ([a-z][a-z-]+)", " ".join(re.findall(r"```sh.*?```|`[^`\n]+`", read(name), re.DOTALL)))
    assert named and set(named) <= set(targets())


# ---- hooks


def test_hooks_are_valid_and_need_no_network():
    from pre_commit.clientlib import load_config

    hooks = [
        hook for repository in load_config(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]
    ]
    assert all(repository["repo"] == "local" for repository in parse(".pre-commit-config.yaml")["repos"])
    assert {"ruff", "ruff-format", "mypy"} <= {hook["id"] for hook in hooks}
    for hook in hooks:
        program, *words = hook["entry"].split()
        if program == "make":
            assert words[-1] in targets()
        else:
            assert program == ".venv/bin/python"
            assert (ROOT / words[0]).is_file() or importlib.util.find_spec(words[1])


# ---- GitHub


def test_workflow_runs_make_targets_on_every_python_of_the_package():
    workflow = parse(".github/workflows/ci.yml")
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert {"make check", "make test-rest", "make docs"} <= set(commands)
    for command in commands:
        program, target = command.split()
        assert program == "make" and target in targets()
    pythons = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    project = tomllib.loads(read("pyproject.toml"))["project"]
    assert project["requires-python"] == f">={pythons[0]}"
    classified = [line.rsplit(" ", 1)[1] for line in project["classifiers"] if re.search(r":: 3\.\d", line)]
    assert pythons == classified == ["3.11", "3.12", "3.13"]


def test_workflow_may_only_read():
    assert parse(".github/workflows/ci.yml")["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_issue_forms(form):
    content = parse(form)
    assert content["name"] and content["description"]
    identifiers = [field["id"] for field in content["body"]]
    assert len(set(identifiers)) == len(identifiers)
    assert all(field["type"] == "textarea" and field["attributes"]["label"] for field in content["body"])


def test_a_bug_report_asks_for_command_log_and_doctor():
    fields = parse(".github/ISSUE_TEMPLATE/bug.yml")["body"]
    required = {field["id"] for field in fields if field.get("validations", {}).get("required")}
    assert {"command", "log", "doctor"} <= required
    assert {path.stem for path in FORMS} == {"bug", "feature", "question"}


# ---- the tree


def kept_files() -> list[Path]:
    """Without what tests and tools leave behind (git ignores it)."""
    files = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            inner = path.relative_to(ROOT / folder).parts
            if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in inner):
                files.append(path)
    return files


def test_no_file_of_the_tree_has_a_finding():
    files = kept_files()
    assert len(files) > 200
    assert [f"{path.relative_to(ROOT)}: {text}" for path in files for text in hygiene.findings(path)] == []


@pytest.mark.parametrize(
    "name, content, finding",
    (
        ("a.py", b"x = 1 \n", "line 1: spaces at the end"),
        ("a.md", b"one\n\n", "exactly one newline"),
        ("a.md", b"one", "exactly one newline"),
        ("a.sh", b"one\r\n", "CR LF"),
        ("a.py", b"a\n<<<<<<< HEAD\nb\n", "line 2: mark of a merge conflict"),
        ("a.json", b"{]\n", "cannot be parsed"),
        ("a.toml", b"a = \n", "cannot be parsed"),
        ("a.yml", b"a: [\n", "cannot be parsed"),
        ("a.bin", b"\xff" * (2 << 20), "larger than 1 MiB"),
    ),
)
def test_hygiene_finds(tmp_path, capsys, name, content, finding):
    path = tmp_path / name
    path.write_bytes(content)
    assert hygiene.main([str(path)]) == 1
    assert finding in capsys.readouterr().out
