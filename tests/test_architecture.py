"""The code's layers, its limits, and what it may not use."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import credential_db
from credential_db import snapshots

PACKAGE = Path(credential_db.__file__).parent
ROOT = PACKAGE.parents[1]
MODULES = {
    ".".join(("credential_db", *path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
LOWER = "credential_db.sqlite"
CODE = [*MODULES.values(), *sorted((ROOT / "alembic").rglob("*.py"))]
# What runs at the start of a process.
AT_START = "api current head legacy_functions opening sqlite.connections sqlite.driver"
AT_START += " sqlite.errors sqlite.files sqlite.obstacles sqlite.scrub sqlite.stamps sqlite.targets"
COSTLY = ("alembic", "sqlalchemy", "cryptography", "logging", "threading", "json", "pathlib")


def imports_of(path: Path, *, at_top: bool = False) -> Iterator[str]:
    """What is imported anywhere, or at the top of a module; also names in modules."""
    tree = ast.parse(path.read_text())
    for node in tree.body if at_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are written out here: from credential_db..."
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith(LOWER)])
def test_the_lower_layer_knows_nothing_of_the_vault(module: str) -> None:
    ours = {name for name in imports_of(MODULES[module]) if name.startswith("credential_db")}
    assert not {name for name in ours if not name.startswith(LOWER)}
    code = MODULES[module].read_text()
    versions = map(snapshots.snapshot, range(credential_db.SCHEMA_VERSION + 1))
    columns = {name for each in versions for names in each.columns.values() for name in names}
    names = {name for name in columns | snapshots.tables_ever() if "_" in name} | {"fingerprint"}
    assert not {name for name in names if re.search(rf"\b{name}\b", code)}
    assert not re.findall(r"'v\d+'|\"v\d+\"|\bPEM\b|\bPKCS\b|\bssh\b", code)


@pytest.mark.parametrize("module", AT_START.split())
def test_a_start_imports_nothing_costly(module: str) -> None:
    found = imports_of(MODULES[f"credential_db.{module}"], at_top=True)
    assert not [name for name in found if name.startswith(COSTLY)]


def test_imports_go_in_no_circle() -> None:
    """A function may import what needs its module."""
    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        found = imports_of(path, at_top=True)
        modules = {name if name in MODULES else name.rpartition(".")[0] for name in found}
        graph[module] = modules & MODULES.keys()
    while leaves := {module for module, needed in graph.items() if not needed & graph.keys()}:
        for module in leaves:
            del graph[module]
    assert not graph


NAMED_TUPLES = {"_asdict", "_fields", "_make", "_replace"}


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_limits_private_names_and_quotes(path: Path) -> None:
    code = path.read_text()
    assert code.count("\n") <= (60 if path.name == "env.py" else 250) or path.name == "head.py"
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr):
            own = ast.unparse(node.value) in ("self", "cls") or f"self.{node.attr} = " in code
            assert own or node.attr in NAMED_TUPLES, f"{ast.unparse(node)} is private"
        if isinstance(node, ast.ImportFrom):
            assert not [alias.name for alias in node.names if re.match("_[a-z]", alias.name)]
        if isinstance(node, ast.JoinedStr) and path.name != "driver.py":
            parts = [x.value if isinstance(x, ast.Constant) else "{}" for x in node.values]
            text = "".join(map(str, parts))
            assert not re.search(r"""(?<!["\w])["`\[]\{\}["`\]](?!")""", text), (
                f"{text}: use driver.quoted()"
            )
    if path.name != "driver.py":
        assert not re.search(r"""replace\('"', '""'\)|'"' \+|\+ '"'""", code), "quoted()"
