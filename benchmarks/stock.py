"""Alembic as its own template sets it up, over three revisions of the same tables."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from benchmarks import legacy

ENVIRONMENT = """
from alembic import context
from sqlalchemy import engine_from_config, pool

config = context.config
section = config.get_section(config.config_ini_section, {})
engine = engine_from_config(section, prefix="sqlalchemy.", poolclass=pool.NullPool)

with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=None)
    with context.begin_transaction():
        context.run_migrations()
"""

REVISION = """
from alembic import op

revision = {revision!r}
down_revision = {down_revision!r}


def upgrade() -> None:
{body}
"""

V0 = f"""
    for statement in {legacy.tables(0)!r}:
        op.execute(statement)
"""

# The rows of ssh_keys are left out: what a loop over them costs, legacy.py tells.
V1 = """
    with op.batch_alter_table("ssh_keys") as batch_op:
        batch_op.alter_column("private_pem", new_column_name="private_der")
"""

V2 = """
    with op.batch_alter_table("proxy_tokens") as batch_op:
        batch_op.alter_column("task", new_column_name="subject")
"""

REVISIONS = (("v0", None, V0), ("v1", "v0", V1), ("v2", "v1", V2))


def create_environment(directory: Path) -> None:
    """Write the scripts into a new directory."""
    (directory / "versions").mkdir(parents=True)
    (directory / "env.py").write_text(ENVIRONMENT, encoding="utf-8")
    for revision, down_revision, body in REVISIONS:
        source = REVISION.format(revision=revision, down_revision=down_revision, body=body)
        (directory / "versions" / f"{revision}.py").write_text(source, encoding="utf-8")


def upgrade(environment: Path, file: Path) -> None:
    command.upgrade(_config(environment, file), "head")


def stamp(environment: Path, file: Path, revision: str) -> None:
    command.stamp(_config(environment, file), revision)


def _config(environment: Path, file: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(environment))
    config.set_main_option("path_separator", "os")
    config.set_main_option("sqlalchemy.url", f"sqlite:///{file}")
    return config
