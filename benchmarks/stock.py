"""Stock Alembic: its own generic template, and one revision that renames the column in place."""

import contextlib
import io
from pathlib import Path

from alembic import command
from alembic.config import Config

REVISION = """
from alembic import op

revision = {revision!r}
down_revision = {down_revision!r}


def upgrade() -> None:
{body}
"""
RENAME = """
    with op.batch_alter_table("proxy_tokens", recreate="never") as batch_op:
        batch_op.alter_column("task", new_column_name="subject")
"""
REVISIONS = (("v0", None, "    pass"), ("v1", "v0", "    pass"), ("v2", "v1", RENAME))


def create_environment(directory: Path) -> None:
    """Write Alembic's template and the revisions into a new directory."""
    with contextlib.redirect_stdout(io.StringIO()):
        command.init(Config(directory / "alembic.ini"), str(directory / "scripts"))
    for revision, down_revision, body in REVISIONS:
        source = REVISION.format(revision=revision, down_revision=down_revision, body=body)
        path = directory / "scripts" / "versions" / f"{revision}.py"
        path.write_text(source, encoding="utf-8")


def upgrade(environment: Path, file: str) -> None:
    command.upgrade(_config(environment, file), "head")


def stamp(environment: Path, file: str, revision: str) -> None:
    command.stamp(_config(environment, file), revision)


def _config(environment: Path, file: str) -> Config:
    config = Config()  # without an ini file, so that it spends no time on the logging section
    config.set_main_option("script_location", str(environment / "scripts"))
    config.set_main_option("path_separator", "os")
    config.set_main_option("sqlalchemy.url", f"sqlite:///{file}")
    return config
