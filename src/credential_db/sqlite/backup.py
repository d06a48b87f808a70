"""A consistent copy of the file, taken while this process holds the write lock."""

import os
import tempfile
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from credential_db.sqlite.connection import connect
from credential_db.sqlite.driver import DBAPIConnection, driver, main_file
from credential_db.sqlite.errors import CredentialDBError
from credential_db.sqlite.passphrase import Passphrase


def refuse_existing(path: str) -> None:
    """Raise where something stands at the path of the backup already.

    Raises:
        CredentialDBError: It does; a backup never replaces a file.
    """
    if os.path.lexists(path):
        raise CredentialDBError(f"the backup {path} exists already: name a new file")


def back_up(
    connection: DBAPIConnection,
    path: str,
    *,
    passphrase: Passphrase | None = None,
    cipher_settings: Mapping[str, int] | None = None,
) -> None:
    """Copy the database as it was when the transaction began.

    The connection that writes cannot be copied from (SQLite's backup interface and VACUUM INTO
    both refuse), so a second one reads; nobody can write between that and the upgrade.

    Args:
        connection: It holds the write lock and has changed nothing yet.
        path: A new file, readable by its owner alone.
        passphrase: For an encrypted database; the copy is encrypted with it too.
        cipher_settings: As for the database.

    Raises:
        CredentialDBError: The path exists, or the database is in memory.
    """
    refuse_existing(path)
    file = main_file(connection)
    if not file:
        raise CredentialDBError("a database in memory has no backup: copy it yourself")
    directory = os.path.dirname(os.path.abspath(path))
    # Under its own name only once it is whole: a half-written backup must not look like one.
    descriptor, partial = tempfile.mkstemp(prefix=".backup-", dir=directory)
    try:
        os.fchmod(descriptor, 0o600)  # the umask may have taken even the owner's bits
        os.close(descriptor)
        _copy(file, partial, driver(connection), passphrase, cipher_settings)
        try:
            os.link(partial, path)
        except FileExistsError:
            refuse_existing(path)
    finally:
        os.unlink(partial)
    _synchronize_directory(directory)


def _copy(
    source_path: str,
    target_path: str,
    module: ModuleType,
    passphrase: Passphrase | None,
    cipher_settings: Mapping[str, int] | None,
) -> None:
    """With the same module for all: two copies of SQLite in one process drop each other's locks.

    https://www.sqlite.org/howtocorrupt.html#multiple_copies_of_sqlite_linked_into_the_same_application
    """
    options: dict[str, Any] = {"passphrase": passphrase, "cipher_settings": cipher_settings}
    try:
        source = connect(source_path, module=module, **options)
    except Exception:
        if passphrase is not None:
            raise
        raise CredentialDBError(
            "an open connection does not tell its passphrase, and the backup of an encrypted "
            "database needs it: hand it in as passphrase= as well"
        ) from None
    target = connect(target_path, module=module, **options)
    try:
        source.backup(target)
    finally:
        target.close()
        source.close()


def _synchronize_directory(directory: str) -> None:
    """The upgrade follows, and the backup's name has to outlive a power cut as well."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
