"""The public names, and the wheel: it has all that it needs outside the checkout."""

import ast
import inspect
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import pplfast

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


NAMES = [name for name in pplfast.__all__ if name != "__version__"]
# What a program of a user needs: settings, the three networks' training and loading, each step, the jobs, own parts.
NEEDED = """Recipe load_recipe recipe_from_dict recipe_to_dict StageConfig OptimConfig SegmentationConfig
    DataConfig Dataset open_dataset train_classifier train_boundaries train_segmentation TrainOptions load_classifier
    load_boundaries load_segmentation generate_cams load_cam walk_cams generate_labels generate_affinity_labels
    segment_images label_dataset JobOptions evaluate_cams evaluate_labels write_report run_chain RunConfig image_maps
    image_labels load_labeller predict Prediction export_labels export_model Exported
    register_backbone register_pooling register_loss Backbone BlockSpec UserError"""


def public_functions(value: object) -> list[tuple[str, Callable[..., object]]]:
    """A function itself; of a class its own public methods and properties, and its constructor."""
    if not isinstance(value, type):
        return [(value.__name__, value)]
    members = {name: getattr(member, "fget", None) or member for name, member in vars(value).items()}
    return [
        (name, member)
        for name, member in members.items()
        if inspect.isfunction(member) and (name == "__init__" or not name.startswith("_"))
    ]


@pytest.mark.parametrize("name", NAMES)
def test_public_names_are_what_they_say(name):
    value = getattr(pplfast, name)
    module, attribute = pplfast._PUBLIC[name]
    assert callable(value) and value is getattr(sys.modules[module], attribute)
    text = value.__doc__
    assert text and not text.startswith(f"{name}("), "no docstring but a dataclass's own"
    for method, function in public_functions(value):
        signature = inspect.signature(function)
        bare = [key for key, part in signature.parameters.items() if part.annotation is part.empty and key != "self"]
        assert not bare and signature.return_annotation is not signature.empty, f"{method}: {bare} or its result"
        if method != "__init__":
            assert inspect.getdoc(function if not isinstance(value, type) else getattr(value, method)), method


def test_the_types_of_public_names_are_declared_as_they_are_found():
    """What a type checker reads of pplfast/__init__.py names the same modules as the table that imports them."""
    tree = ast.parse(Path(pplfast.__file__).read_text(encoding="utf-8"))
    [guarded] = [node for node in tree.body if isinstance(node, ast.If)]
    declared = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared == pplfast._PUBLIC


def test_a_program_finds_what_it_needs():
    assert set(NEEDED.split()) <= set(NAMES)


def test_public_names_are_listed_once_and_others_are_refused():
    assert set(pplfast.__all__) == {*pplfast._PUBLIC, "__version__"}
    assert "run_chain" in dir(pplfast)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pplfast.nothing  # noqa: B018


@pytest.mark.slow
def test_importing_the_package_or_asking_for_help_does_not_import_torch():
    code = "import sys, pplfast, pplfast.cli; print(sorted({'torch', 'numpy', 'deepspeed'} & set(sys.modules)))"
    assert run(sys.executable, "-c", code, cwd=ROOT) == "[]"


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """Built from a copy, since building leaves folders behind in the sources."""
    folder = tmp_path_factory.mktemp("sdist")
    source = folder / "source"
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__", "results"),
    )
    run(sys.executable, "-c", f"import setuptools.build_meta as b; b.build_sdist({str(folder)!r})", cwd=source)
    return next(folder.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """Built from the source distribution, as an index that has only that would be used."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q")
    run(*pip, "-w", str(folder), str(sdist), cwd=folder)
    return next(folder.glob("*.whl"))


def modules_and_data() -> set[str]:
    """What is needed outside the checkout, under its installed name."""
    roots = {
        "pplfast": ROOT / "pplfast",
        "pplfast/kernels": ROOT / "kernels",
        "pplfast/benchmarks": ROOT / "benchmarks",
    }
    kinds = (".py", ".toml", ".css", ".cpp", ".typed")
    return {
        f"{name}/{path.relative_to(root)}"
        for name, root in roots.items()
        for path in root.rglob("*")
        if path.suffix in kinds and "__pycache__" not in path.parts
    }


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_data_file(wheel):
    expected = modules_and_data()
    named = (
        "py.typed",
        "cpu/depthwise.cpp",
        "report/style.css",
        "recipes/demo.toml",
        "kernels/cam_fuse.py",
        "benchmarks/cam.py",
    )
    assert {f"pplfast/{name}" for name in named} <= expected
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert expected <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "docs/", "kernels/", "benchmarks/"))]


@pytest.mark.slow
def test_the_source_distribution_has_what_a_contributor_needs(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CITATION.cff",
        "Makefile",
        "constraints.txt",
        "tests/conftest.py",
    } <= names


@pytest.mark.slow
def test_the_wheel_runs_outside_the_checkout(wheel, tmp_path):
    target = tmp_path / "installed"
    run(
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
        str(wheel),
        cwd=tmp_path,
    )
    paths = {"PYTHONPATH": str(target), "PYTHONSAFEPATH": "1"}
    assert run(sys.executable, "-m", "pplfast", "--version", cwd=tmp_path, **paths) == f"pplfast {pplfast.__version__}"
    code = (
        "import pplfast.kernels, pplfast.recipe as r; from importlib import resources as s;"
        "assert s.files('pplfast.report').joinpath('style.css').is_file();"
        "print(pplfast.kernels.__file__, r.load_recipe('demo').name)"
    )
    file, recipe = run(sys.executable, "-c", code, cwd=tmp_path, **paths).split()
    assert file == str(target / "pplfast" / "kernels" / "__init__.py") and recipe == "demo"
