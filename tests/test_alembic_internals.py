"""What alembic_internals.py relies on, item by item: a new release may change any of it.

Where one fails, look at the item of that number there, and at the release notes of the version that
the message names.
"""

import ast
import importlib.metadata
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import alembic.context
import alembic.op
import pytest
import sqlalchemy
from alembic import command
from alembic.operations import Operations, ops
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Integer, Text, event, inspect, pool

from credential_db import scripts
from credential_db.sqlite import alembic_internals as internals
from credential_db.sqlite.alterations import database_in_memory
from credential_db.sqlite.errors import CredentialDBError

VERSIONS = ", ".join(
    f"{name} {importlib.metadata.version(name)}" for name in ("alembic", "sqlalchemy")
)
COMMENTS = Path(internals.__file__).read_text()


def changed(item: int) -> str:
    found = re.search(rf"^# {item}\. (.*?)\n[^#]", COMMENTS, re.MULTILINE | re.DOTALL)
    assert found, f"alembic_internals.py has no item {item} any more: adapt this test"
    text = " ".join(found[1].replace("#", "").split())
    return f"{VERSIONS}: item {item} of alembic_internals.py does not hold any more: {text}"


def seen_by(name: str, *arguments: Any, **options: Any) -> dict[str, Any]:
    """What the environment of one of Alembic's commands knows, when it runs ``env.py``."""
    seen: dict[str, Any] = {}

    def look() -> None:
        seen.update(alembic.context._proxy.context_opts)  # type: ignore[attr-defined]  # not public
        seen["name"] = internals.command_name()
        raise LookupError  # instead of running anything

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptDirectory, "run_env", lambda _: look())
        with pytest.raises(LookupError):
            getattr(command, name)(scripts.config(), *arguments, **options)
    return seen


def test_every_item_has_a_test() -> None:
    items = set(re.findall(r"^# (\d+)\. ", COMMENTS, re.MULTILINE))
    tested = set(re.findall(r"^def test_item_(\d+)", Path(__file__).read_text(), re.MULTILINE))
    assert items == tested, "write a test of the new item, named test_item_N_..."


def test_item_1_the_names_of_alembic_are_one_of_each_in_a_process() -> None:
    environment = EnvironmentContext(scripts.config(), scripts.directory())
    with environment:
        assert alembic.context._proxy is environment, changed(1)  # type: ignore[attr-defined]  # likewise
        assert internals.context.config is environment.config, changed(1)
    with closing(sqlite3.connect(":memory:")):
        migration = MigrationContext.configure(dialect_name="sqlite")
    with internals.op_for(migration):
        assert internals.op.get_context() is migration, changed(1)
        assert getattr(alembic.op, "_proxy", None) is None, "op of this thread is not Alembic's"
        assert callable(internals.op.copy_table), changed(1)  # type: ignore[attr-defined]  # ours
    assert Operations(migration).get_context() is migration, changed(1)
    assert callable(environment.script.run_env), changed(1)
    assert isinstance(environment.context_opts, dict), changed(1)


def test_item_2_the_scripts_tell_the_steps() -> None:
    script = scripts.directory()
    steps = list(internals.steps_to(script, "v2", ("v0",)))
    assert [step.revision.revision for step in steps] == ["v1", "v2"], changed(2)
    assert list(internals.steps_to(script, "v2", ("v2",))) == [], changed(2)
    assert [step.revision.revision for step in internals.steps_to(script, "v1", ())] == [
        "v0",
        "v1",
    ], changed(2)


COMMANDS: dict[str, tuple[Any, ...]] = {
    "upgrade": ("head",),
    "downgrade": ("v0",),
    "stamp": ("head",),
    "ensure_version": (),
    "current": (),
    "check": (),
    "revision": ("message",),
    "merge": ("heads",),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_item_3_the_function_of_a_command_says_which_it_is(name: str) -> None:
    if name == "merge":
        options: dict[str, Any] = {"message": "x"}
        assert seen_by(name, *COMMANDS[name], **options)["name"] == name, changed(3)
        return
    assert seen_by(name, *COMMANDS[name])["name"] == name, changed(3)


def test_item_3_history_and_show_run_env_too() -> None:
    assert seen_by("history", indicate_current=True)["name"] == "history", changed(3)
    assert seen_by("show", "current")["name"] == "show", changed(3)


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What a program hears that listens to everything of SQLAlchemy's."""
    heard: list[str] = []
    names = {
        pool.Pool: ("connect", "first_connect", "checkout", "checkin", "reset", "close"),
        sqlalchemy.Engine: ("before_cursor_execute", "begin", "commit", "rollback"),
    }
    listeners: list[tuple[Any, str, Any]] = []
    for target, events in names.items():
        for name in events:

            def hear(*_: object, name: str = name) -> None:
                heard.append(name)

            event.listen(target, name, hear)
            listeners.append((target, name, hear))
    yield heard
    for target, name, hear in listeners:
        event.remove(target, name, hear)


def use(engine: sqlalchemy.Engine) -> Any:
    with engine.begin() as connection:
        found = connection.exec_driver_sql("SELECT 1").scalar()
        raw = internals.driver_connection_of(connection.connection)
    engine.dispose()
    return found, raw


def test_item_4_nobody_is_told_of_an_unobserved_engine(told: list[str]) -> None:
    assert use(sqlalchemy.create_engine("sqlite://"))[0] == 1
    assert {"connect", "begin", "commit"} <= set(told), "or it proves nothing"
    told.clear()
    found, raw = use(internals.unobserved_engine("sqlite://"))
    assert found == 1
    assert isinstance(raw, sqlite3.Connection), changed(4)
    assert told == [], changed(4)


def test_item_5_a_command_knows_what_it_was_called_with() -> None:
    assert seen_by("stamp", "head", purge=True)["purge"] is True, changed(5)
    assert not seen_by("stamp", "head").get("purge"), changed(5)
    options: dict[str, Any] = {
        "head": "v1",
        "splice": True,
        "branch_label": "mine",
        "version_path": None,
        "depends_on": "v0",
        "autogenerate": True,
    }
    arguments = seen_by("revision", "x", **options)["revision_context"].command_args
    assert {name: arguments[name] for name in options} == options, changed(5)
    compared = seen_by("check")["revision_context"].command_args
    assert compared["autogenerate"] is True, changed(5)
    assert {"head", "splice", "branch_label", "version_path", "depends_on"} <= set(compared)


def test_a_step_of_our_own_can_be_rendered_and_compared() -> None:
    """What autogenerate builds on is documented, but for what ``check`` does with it."""
    from credential_db.sqlite.revising import CopyTable

    step = CopyTable(sqlalchemy.Table("t", sqlalchemy.MetaData(), sqlalchemy.Column("a")))
    assert ops.UpgradeOps([step]).as_diffs() == [("copy_table", "t")], VERSIONS


@pytest.mark.parametrize("file", sorted(Path(scripts.directory().versions).glob("v*.py")), ids=str)
def test_a_revision_takes_op_from_this_package(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        wrong = [name for name in names if name.partition(".")[0] == "alembic"]
        assert not wrong, (
            f"{file.name} imports {wrong}: take op from credential_db.sqlite.revising, since "
            "Alembic's is one for all threads of a program"
        )
        live = [name for name in names if name.startswith("credential_db.schema")]
        assert not live, f"{file.name} imports {live}: when that changes, the revision would, too"


def test_item_6_batch_mode_says_whether_it_copies() -> None:
    with database_in_memory("CREATE TABLE t (a TEXT)") as connection:
        careful = internals.CarefulOperations(MigrationContext.configure(connection))
        with careful.batch_alter_table("t") as batch:
            batch.add_column(Column("b", Text))
        with (
            pytest.raises(CredentialDBError, match="would copy table t, and change cells"),
            careful.batch_alter_table("t") as batch,
        ):
            batch.alter_column("a", type_=Integer)
        assert [column["name"] for column in inspect(connection).get_columns("t")] == ["a", "b"]
