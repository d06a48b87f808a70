"""Where the migration scripts are, and that they are one line of versions without a gap."""

from collections import defaultdict
from functools import cache
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from credential_db.head import SCHEMA_VERSION
from credential_db.sqlite.stamps import revision_of, version_of

HEAD = revision_of(SCHEMA_VERSION)


def config() -> Config:
    """Alembic's configuration over these scripts.

    ``alembic.ini`` and ``alembic/`` stand side by side: inside the installed package, or at the
    top of the checkout.
    """
    return Config(home() / "alembic.ini")


def home() -> Path:
    """The folder of both."""
    package = Path(__file__).parent
    return package if (package / "alembic").is_dir() else package.parents[1]


@cache
def directory() -> ScriptDirectory:
    """The scripts, read once in a process."""
    script = ScriptDirectory.from_config(config())
    refuse_disorder(script)
    return script


def refuse_disorder(script: ScriptDirectory) -> None:
    """Raise where the revisions are not v0, v1, v2 and so on, one after the other.

    Two people may both have made the next one, each in a branch of their own.
    """
    files: defaultdict[str, list[str]] = defaultdict(list)
    for file in sorted(Path(script.versions).glob("v*.py")):
        files[file.stem.partition("_")[0]].append(file.name)
    for revision, names in files.items():
        if len(names) > 1:
            following = revision_of((version_of(revision) or 0) + 1)
            raise CommandError(
                f"{' and '.join(names)} are both revision {revision}: in the one that is not "
                f"released yet, set revision = '{following}' and down_revision = '{revision}', "
                f"rename the file to {following}.py, and run python tools/record.py. A development "
                f"file that has seen either of them is to be made anew"
            )
    found = [step.revision for step in reversed(list(script.walk_revisions()))]
    for version, revision in enumerate(found):
        if version_of(revision) != version:
            raise CommandError(
                f"revision {revision} stands where {revision_of(version)} was expected: "
                "revisions are numbered in order, by 'alembic revision'"
            )
    for revision, names in files.items():
        if revision not in found:
            raise CommandError(
                f"{names[0]} says that it is another revision: set revision = '{revision}' in it, "
                "and the one before it as down_revision, then run python tools/record.py"
            )


def refuse_unrecorded(script: ScriptDirectory) -> None:
    """Raise where the newest revision, after one was deleted, is not the version on record."""
    if script.get_current_head() != HEAD:
        raise CommandError(
            f"the newest revision is {script.get_current_head()} and the record says {HEAD}: run "
            "python tools/record.py"
        )
