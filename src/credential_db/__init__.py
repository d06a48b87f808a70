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
    from credential_db.opening import Upgrade
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

# The cheapest first: each imports those before it that it needs.
_MODULES = ("head", "sqlite.errors", "opening", "api", "legacy_functions", "errors", "schema")
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
    for module in _MODULES if name in __all__ else ():
        found: object = getattr(import_module(f"{__name__}.{module}"), name, None)
        if found is not None:
            globals()[name] = found  # the next time it is found at once
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
