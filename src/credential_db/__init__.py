"""The schema of a credential vault, and a safe way from every old file to the newest."""

from typing import TYPE_CHECKING

from credential_db.current import Upgrade
from credential_db.errors import KeyConversionError, KeyProblem
from credential_db.head import SCHEMA_VERSION
from credential_db.interface import Status, status, upgrade
from credential_db.legacy_entry_points import (
    ensure_credentials_schema,
    migrate_credential_db_schema,
)
from credential_db.sqlite.errors import (
    CredentialDBError,
    DatabaseBusy,
    NotADatabase,
    ReadOnlyDatabase,
    SchemaTooNew,
    UnrecognizedSchema,
)

if TYPE_CHECKING:
    from credential_db.schema import metadata

    __version__: str

__all__ = [
    "SCHEMA_VERSION",
    "CredentialDBError",
    "DatabaseBusy",
    "KeyConversionError",
    "KeyProblem",
    "NotADatabase",
    "ReadOnlyDatabase",
    "SchemaTooNew",
    "Status",
    "UnrecognizedSchema",
    "Upgrade",
    "__version__",
    "ensure_credentials_schema",
    "metadata",
    "migrate_credential_db_schema",
    "status",
    "upgrade",
]


def __getattr__(name: str) -> object:
    """Import what costs time only when somebody asks for it."""
    if name == "metadata":
        from credential_db.schema import metadata

        return metadata
    if name == "__version__":
        from importlib.metadata import version

        return version("credential-db")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
