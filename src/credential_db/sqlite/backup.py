"""A consistent copy of the file, taken while this process holds the write lock."""

import os
from typing import Any

from credential_db.sqlite.cipher import Cipher
from credential_db.sqlite.driver import DBAPIConnection, driver, main_file
from credential_db.sqlite.errors import CredentialDBError, NotADatabase
from credential_db.sqlite.files import PRIVATE_FILE, SIDECARS
from credential_db.sqlite.opening import connect


def checked_backup_path(path: str | os.PathLike[str]) -> str:
    """The path of a backup, as it was named.

    Raises:
        CredentialDBError: It is empty or a URL. The message does not repeat it.
    """
    named = os.fsdecode(path)
    if not named:
        raise CredentialDBError("the path of the backup is empty: name a new file")
    if "://" in named or named.startswith("file:") or "\0" in named:
        raise CredentialDBError("a backup is named by its path, not by a URL")
    return os.path.expanduser(named)


def back_up(connection: DBAPIConnection, path: str, *, cipher: Cipher | None = None) -> None:
    """Copy the database as it was when the transaction began.

    The connection that writes cannot be copied from (SQLite's backup interface and VACUUM INTO
    both refuse), so a second one reads; nobody can write between that and the upgrade.

    Args:
        connection: It holds the write lock and has changed nothing yet.
        path: A new file, readable by its owner alone.
        cipher: Of an encrypted database; the copy is encrypted with it too.

    Raises:
        CredentialDBError: The path exists or belongs to the database, which may be encrypted
            without its passphrase being given.
    """
    file = main_file(connection)
    if not file:
        raise CredentialDBError("a database in memory has no backup: copy it yourself")
    _refuse_path(path, file)
    # Under its own name only once it is whole: a half-written backup must not look like one. What
    # an interrupted run has left is made anew.
    partial = path + ".partial"
    if os.path.lexists(partial):
        os.unlink(partial)
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    try:
        os.fchmod(descriptor, PRIVATE_FILE)  # the umask may have taken even the owner's bits
        os.close(descriptor)
        _copy(file, partial, driver(connection), cipher)
        _give_name(partial, path, file)
    except BaseException:
        if os.path.lexists(partial):
            os.unlink(partial)
        raise
    _synchronize_directory(os.path.dirname(os.path.abspath(path)))


def _refuse_path(path: str, file: str) -> None:
    """A backup never replaces a file, nor stands where SQLite keeps one of its own."""
    if os.path.lexists(path):
        raise CredentialDBError(f"the backup {path} exists already: name a new file")
    if os.path.realpath(path) in [os.path.realpath(file) + ending for ending in SIDECARS]:
        raise CredentialDBError(f"SQLite keeps a file of its own at {path}: name another one")


def _give_name(partial: str, path: str, file: str) -> None:
    try:
        os.link(partial, path)  # unlike a rename, it never replaces a file
    except FileExistsError:
        _refuse_path(path, file)
    except OSError:  # no hard links here, as on FAT and some network mounts
        _refuse_path(path, file)
        os.rename(partial, path)
        return
    os.unlink(partial)


def _copy(source_path: str, target_path: str, module: Any, cipher: Cipher | None) -> None:
    source = None
    try:
        source = connect(source_path, module=module, cipher=cipher)
    except module.DatabaseError as error:
        if cipher is not None or getattr(error, "sqlite_errorname", "") != "SQLITE_NOTADB":
            raise
    if source is None:
        raise NotADatabase(
            "an open connection does not tell its passphrase, and the backup of an encrypted "
            "database needs it: hand it in as passphrase= as well"
        )
    try:
        target = connect(target_path, module=module, cipher=cipher)
        try:
            source.backup(target)
        finally:
            target.close()
    finally:
        source.close()


def _synchronize_directory(directory: str) -> None:
    """The upgrade follows, and the backup's name has to outlive a power cut as well."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
