"""A consistent copy of the file, taken while this process holds the write lock."""

import contextlib
import os
from typing import TYPE_CHECKING, Any

from credential_db.sqlite.driver import DBAPIConnection, driver, error_name, main_file
from credential_db.sqlite.errors import CredentialDBError, NotADatabase
from credential_db.sqlite.failures import clean
from credential_db.sqlite.files import PRIVATE_FILE, SIDECARS, expanded
from credential_db.sqlite.opening import connect

if TYPE_CHECKING:
    from credential_db.sqlite.target import Target


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
    return expanded(named)


class Backup:
    """A copy of the file as it was before a change; none, where nothing comes of the change.

    Args:
        path: A new file, readable by its owner alone.
        connection: It holds the write lock and has changed nothing yet.

    Raises:
        CredentialDBError: Nothing can copy the database.
    """

    def __init__(self, path: str, connection: DBAPIConnection) -> None:
        """Nothing is written yet."""
        self.path = path
        self._connection = connection
        self._database = main_file(connection)
        if not self._database:
            raise CredentialDBError("a database in memory has no backup: copy it yourself")
        if connection.execute("PRAGMA main.locking_mode").fetchone() == ("exclusive",):
            raise CredentialDBError(
                "this connection is set to PRAGMA locking_mode = EXCLUSIVE, so that nothing can "
                "copy the file: hand in another one, or leave out the backup"
            )
        database = os.stat(self._database)
        # No other database's copy has this name, and of this one there is one writer.
        self._partial = f"{path}.{database.st_dev:x}-{database.st_ino:x}.partial"
        self._made: list[os.stat_result] = []

    def take(self, target: "Target") -> None:
        """Copy the database. Under its own name the copy is whole: half of one would look like it.

        The connection that writes cannot be copied from (SQLite's backup interface and VACUUM INTO
        both refuse), so a second one reads; nobody can write between that and the upgrade.

        Args:
            target: The same database; the copy is encrypted as it is.

        Raises:
            CredentialDBError: The path is taken or belongs to the database, the copy failed, or
                the database is encrypted without its passphrase being given.
        """
        self._refuse_place()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._partial)  # which a killed run has left
        self._create(self._partial)
        _copy(self._database, self._partial, self.path, driver(self._connection), target)
        try:
            self._give_name()
        except FileExistsError:
            self._refuse_place()  # somebody was faster
            raise
        _synchronize_directory(os.path.dirname(os.path.abspath(self.path)))

    def _give_name(self) -> None:
        try:
            os.link(self._partial, self.path)  # unlike a rename, it never replaces a file
        except FileExistsError:
            raise
        except OSError:  # no hard links here, as on some network mounts
            self._create(self.path)
            os.rename(self._partial, self.path)
        else:
            os.unlink(self._partial)

    def take_back(self) -> None:
        """Remove the copy: nothing was changed, and the next run would find the path taken."""
        for path in (self._partial, self.path):
            with contextlib.suppress(FileNotFoundError):
                found = os.lstat(path)
                if any(os.path.samestat(found, made) for made in self._made):
                    os.unlink(path)

    def _create(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
        try:
            self._made.append(os.fstat(descriptor))
            os.fchmod(descriptor, PRIVATE_FILE)  # the umask may have taken even the owner's bits
        finally:
            os.close(descriptor)

    def _refuse_place(self) -> None:
        """A backup never replaces a file, nor stands where SQLite keeps one of its own."""
        for ending in ("", *SIDECARS):  # which SQLite would take for a part of the backup
            if os.path.lexists(self.path + ending):
                raise CredentialDBError(
                    f"the backup {self.path}{ending} exists already: name a new file"
                )
        if not os.path.isdir(os.path.dirname(os.path.abspath(self.path))):
            raise CredentialDBError(
                f"there is no directory for the backup {self.path}: make it first"
            )
        own = [os.path.realpath(self._database) + ending for ending in SIDECARS]
        if os.path.realpath(self.path) in own:
            raise CredentialDBError(
                f"SQLite keeps a file of its own at {self.path}: name another one"
            )


def _copy(file: str, copy: str, path: str, module: Any, target: "Target") -> None:
    cipher, source = target.cipher, None
    try:
        source = connect(file, module=module, cipher=cipher, timeout=target.timeout)
    except module.DatabaseError as error:
        if cipher is not None or error_name(error) != "SQLITE_NOTADB":
            raise
    if source is None:
        raise NotADatabase(
            "an open connection does not tell its passphrase, and the backup of an encrypted "
            "database needs it: hand it in as passphrase= as well"
        )
    with contextlib.closing(source):
        try:
            with contextlib.closing(connect(copy, module=module, cipher=cipher)) as made:
                made.execute("PRAGMA journal_mode = OFF")  # half of it is removed, not rolled back
                source.backup(made)
        except module.Error as error:
            failure = clean(error, f"the backup {path}")
        else:
            return
    raise failure


def _synchronize_directory(directory: str) -> None:
    """The upgrade follows, and the backup's name has to outlive a power cut as well."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
