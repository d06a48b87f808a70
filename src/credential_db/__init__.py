"""The schema of a credential vault, and a safe way from every old file to the newest."""

from typing import TYPE_CHECKING

from credential_db.current import SCHEMA_VERSION
from credential_db.interface import (
    Status,
    Upgrade,
    ensure_credentials_schema,
    migrate_credential_db_schema,
    status,
    upgrade,
)
from credential_db.sqlite.errors import (
    CredentialDBError,
    DatabaseBusy,
    KeyConversionError,
    KeyProblem,
    NotADatabase,
    ReadOnlyDatabase,
    SchemaTooNew,
    UnrecognizedSchema,
)

if TYPE_CHECKING:
    from credential_db.schema import metadata

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
    "ensure_credentials_schema",
    "metadata",
    "migrate_credential_db_schema",
    "status",
    "upgrade",
]


def __getattr__(name: str) -> object:
    """Import SQLAlchemy only when somebody asks for the metadata."""
    if name == "metadata":
        from credential_db.schema import metadata

        return metadata
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
