"""What a file is and what would block its upgrade, found out without a change."""

from collections.abc import Iterator

from credential_db import shim
from credential_db.api import Status
from credential_db.head import SCHEMA_VERSION
from credential_db.sqlite import adoption
from credential_db.sqlite.driver import DBAPIConnection, main_file
from credential_db.sqlite.errors import CredentialDBError, SchemaTooNew, UnrecognizedSchema
from credential_db.sqlite.files import foreign_sidecar, stat_if_exists
from credential_db.sqlite.obstacles import obstacles, warnings
from credential_db.sqlite.scrub import is_marked
from credential_db.sqlite.targets import Target


def inspect(target: Target) -> tuple[Status, tuple[str, ...]]:
    """The status of a database, and what would block its upgrade, as sentences.

    Raises:
        CredentialDBError: It cannot be read.
    """
    if target.is_missing():
        status = Status("missing", None, SCHEMA_VERSION, "the file does not exist")
        return _with_blockers(status, obstacles(target.path), target.path)
    if foreign_sidecar(target.file):
        status = Status("empty", None, SCHEMA_VERSION, "the file is empty")
        return _with_blockers(status, obstacles(target.file), target.file)
    with target.read() as connection:
        path = target.path or main_file(connection)
        status, blockers = _look(connection)
        in_file = obstacles(path) if path and stat_if_exists(path) else iter(())
        return _with_blockers(status, (*blockers, *in_file), path)


def _with_blockers(
    status: Status, found: "Iterator[CredentialDBError] | tuple[CredentialDBError, ...]", path: str
) -> tuple[Status, tuple[str, ...]]:
    blockers = tuple(str(error) for error in found)
    if status.state in ("current", "ahead", "unrecognized"):
        blockers = ()  # nothing is to be upgraded, or the detail already tells why it cannot be
    remarks = [status.detail, *blockers, *(warnings(path) if path else ())]
    return status._replace(detail="; ".join(remarks)), blockers


def _look(connection: DBAPIConnection) -> tuple[Status, tuple[CredentialDBError, ...]]:
    head = SCHEMA_VERSION
    try:
        found = shim.identify(connection)
    except SchemaTooNew as error:
        return Status("ahead", error.version, head, str(error)), ()
    except UnrecognizedSchema as error:
        return Status("unrecognized", None, head, str(error)), ()
    version = found.version
    if version is None:
        return Status("empty", None, head, "the file has no schema yet"), ()
    remarks = [f"table {', '.join(found.missing)} is missing"] if found.missing else []
    state = "current"
    if not found.stamped:
        state = "legacy"
        remarks.append("not under Alembic yet")
    elif version < head or not found.agreed or found.missing:
        state = "behind"
    if found.stamped and not found.agreed:
        remarks.append("its stamps disagree (the next upgrade corrects them)")
    if is_marked(connection):
        remarks.append(
            "old secrets may remain in free space (the next start that can removes them)"
        )
    if lost := adoption.differences(found.schema, found.snapshots):
        remarks.append(f"definitions that were lost: {'; '.join(lost)}")
    of_head = f" of {head}" if version < head and found.stamped else ""
    status = Status(state, version, head, "; ".join([f"version {version}{of_head}", *remarks]))
    if found.agreed:
        return status, ()  # definitions are repaired when a file is adopted
    return status, tuple(adoption.obstacles(connection, found.schema, found.snapshots))
