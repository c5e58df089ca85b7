"""The rooms of ARCHITECTURE.md import each other one way: no room comes back to itself over what it imports."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
APART: tuple[str, ...] = ()


def modules(root: Path) -> dict[str, Path]:
    """By their names; kernels/ is imported as pplfast.kernels."""
    found = {}
    for path in (*(root / "pplfast").rglob("*.py"), *(root / "kernels").rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        found[name if name.split(".")[0] == "pplfast" else f"pplfast.{name}"] = path
    return found


def imports(statements: list[ast.stmt], known: dict[str, Path]) -> Iterator[str]:
    """Modules of pplfast that are imported whenever these statements run: not in functions, nor for types alone."""
    for statement in statements:
        if isinstance(statement, ast.Import):
            yield from (name.name for name in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            below = (f"{statement.module}.{name.name}" for name in statement.names)
            yield from (name if name in known else str(statement.module) for name in below)
        elif isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            yield from imports(statement.orelse, known)
        elif not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in ("body", "handlers", "orelse", "finalbody"):
                yield from imports(getattr(statement, part, []), known)


def room(module: str) -> str:
    """The first part of its name below pplfast."""
    return module if module in APART else ".".join(module.split(".")[:2])


def rooms(root: Path) -> dict[str, set[str]]:
    """Each room, or module directly in pplfast, with those that it imports."""
    known, graph = modules(root), dict[str, set[str]]()
    for module, path in known.items():
        found = imports(ast.parse(path.read_bytes()).body, known)
        own = {room(name) for name in found if name.startswith("pplfast.")} - {room(module)}
        graph.setdefault(room(module), set()).update(own)
    return graph


def test_no_room_imports_itself_over_others():
    graph = rooms(ROOT)
    assert {"pplfast.jobs", "pplfast.cluster", "pplfast.data"} <= graph["pplfast.labels"] | graph["pplfast.jobs"]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("back", ("import pplfast.a.one", "from pplfast.a import one", "from pplfast import a"))
def test_a_circle_is_found_and_imports_for_types_or_in_functions_make_none(tmp_path, back):
    for name in ("a", "b"):
        (tmp_path / "pplfast" / name).mkdir(parents=True)
    (tmp_path / "pplfast/a/__init__.py").touch()
    (tmp_path / "pplfast/a/one.py").write_text(
        "try:\n    from pplfast.b.two import f\nexcept ImportError:\n    f = None\n"
    )
    other = tmp_path / "pplfast/b/two.py"
    other.write_text(f"if TYPE_CHECKING:\n    {back}\ndef f():\n    {back}\n")
    TopologicalSorter(rooms(tmp_path)).prepare()
    other.write_text(f"class C:\n    {back}\n")
    with pytest.raises(CycleError):
        TopologicalSorter(rooms(tmp_path)).prepare()
