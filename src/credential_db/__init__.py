"""The schema of a credential vault, and a safe upgrade from every old file to the newest.

Every name is imported on first use: a process that starts pays for what it uses.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from credential_db.api import Status, status, upgrade
    from credential_db.errors import KeyConversionError, KeyProblem
    from credential_db.head import SCHEMA_VERSION
    from credential_db.legacy_functions import (
        ensure_credentials_schema,
        migrate_credential_db_schema,
    )
    from credential_db.outcome import Upgrade
    from credential_db.schema import metadata
    from credential_db.sqlite.errors import (
        CredentialDBError,
        DatabaseBusy,
        NotADatabase,
        ReadOnlyDatabase,
        SchemaTooNew,
        UnrecognizedSchema,
    )

    __version__: str

_MODULES = {
    "api": ("Status", "status", "upgrade"),
    "errors": ("KeyConversionError", "KeyProblem"),
    "head": ("SCHEMA_VERSION",),
    "legacy_functions": ("ensure_credentials_schema", "migrate_credential_db_schema"),
    "outcome": ("Upgrade",),
    "schema": ("metadata",),
    "sqlite.errors": (
        "CredentialDBError",
        "DatabaseBusy",
        "NotADatabase",
        "ReadOnlyDatabase",
        "SchemaTooNew",
        "UnrecognizedSchema",
    ),
}
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
    """Import the module of a public name."""
    if name == "__version__":
        from importlib.metadata import version

        return version("credential-db")
    for module, names in _MODULES.items():
        if name in names:
            found: object = getattr(import_module(f"{__name__}.{module}"), name)
            globals()[name] = found  # the next time it is found at once
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
