"""The two floors of the house: this vault above, safe Alembic on SQLite below."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import credential_db
from credential_db import records

PACKAGE = Path(credential_db.__file__).parent
LOWER = "credential_db.sqlite"


def module_name(path: Path) -> str:
    parts = ["credential_db", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
BELOW = [name for name in MODULES if name.startswith(LOWER)]


def imports_of(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Each import of this package with what it imports, which may be a name in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are written out here: from credential_db..."
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((node, name) for name in found if name.split(".")[0] == "credential_db")


def modules_of(name: str) -> str:
    return name if name in MODULES else name.rpartition(".")[0]


@pytest.mark.parametrize("module", BELOW)
def test_the_lower_floor_imports_nothing_of_the_upper(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    above = [name for _, name in imports_of(tree) if not name.startswith(LOWER)]
    assert not above, f"{module} imports {above}: hand it in from above, or move it there"


def names_of_the_vault() -> set[str]:
    """Every table and column, but those whose names are words that anybody uses."""
    columns = {
        column
        for version in range(credential_db.SCHEMA_VERSION + 1)
        for names in records.record(version).columns.values()
        for column in names
    }
    names = columns | records.tables_ever()
    return {name for name in names if "_" in name} | {"credentials", "fingerprint"}


@pytest.mark.parametrize("module", BELOW)
def test_the_lower_floor_knows_no_name_of_the_vault(module: str) -> None:
    code = MODULES[module].read_text()
    found = {name for name in names_of_the_vault() if re.search(rf"\b{name}\b", code, re.I)}
    found |= set(re.findall(r"'v\d+'|\"v\d+\"|\bPEM\b|\bPKCS\b|\bssh\b", code))
    assert not found, f"{module} speaks of {sorted(found)}, which is this vault's: hand it in"


def test_imports_go_in_no_circle() -> None:
    """At the top of a module or in a function; only what is for the type checker may."""
    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text())
        for_types = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for inner in ast.walk(node)
        }
        graph[module] = {
            modules_of(name) for node, name in imports_of(tree) if id(node) not in for_types
        } - {module, "credential_db"}

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"imports in a circle: {' -> '.join((*way, module))}"
        for imported in sorted(graph.get(module, ())):
            visit(imported, (*way, module))
        graph[module] = set()  # nothing more to find behind it

    for module in sorted(graph):
        visit(module, ())
