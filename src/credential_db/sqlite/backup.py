"""A consistent copy of the file, taken while this process holds the write lock."""

import contextlib
import itertools
import os
import time

from credential_db.sqlite.causes import clean
from credential_db.sqlite.connections import Passphrase, connect
from credential_db.sqlite.driver import DBAPIConnection, main_file, module_of
from credential_db.sqlite.errors import CredentialDBError
from credential_db.sqlite.files import SIDECARS, create_exclusively, file_of_name
from credential_db.sqlite.obstacles import cannot_write


def default_backup(path: str, version: int | None) -> str:
    """A new name next to the real file: ``FILE.v1.20261126T104500Z.bak``, in UTC."""
    start = os.path.realpath(path) + ("" if version is None else f".v{version}")
    start += time.strftime(".%Y%m%dT%H%M%SZ", time.gmtime())
    names = (f"{start}-{number}.bak" for number in itertools.count(2))
    return next(name for name in itertools.chain([f"{start}.bak"], names) if not _taken(name))


def checked_backup_path(path: str | os.PathLike[str]) -> str:
    """The path of a backup, as it was typed; the message about a URL does not repeat it."""
    typed = os.fsdecode(path)
    if not typed or "://" in typed or typed.startswith("file:"):
        raise CredentialDBError("a backup is named by its path, not by a URL")
    return file_of_name(typed)


class Backup:
    """A copy of the file as it was before a change, for its owner alone, encrypted likewise."""

    def __init__(
        self, path: str, *, connection: DBAPIConnection, passphrase: Passphrase | None = None
    ) -> None:
        self.path = path
        self._module = module_of(connection)
        self._passphrase = passphrase
        self._database = os.path.realpath(main_file(connection))
        if not os.path.isfile(self._database):
            raise CredentialDBError("a database in memory has no backup: copy it yourself")
        if connection.execute("PRAGMA main.locking_mode").fetchone() == ("exclusive",):
            raise CredentialDBError(
                "this connection is set to PRAGMA locking_mode = EXCLUSIVE, so that nothing can "
                "copy the file: pass another one, or leave out the backup"
            )
        self._directory = os.path.dirname(os.path.abspath(path))
        file = os.stat(self._database)
        # The same name each time: the next run removes what a killed one has left.
        self._partial = f"{self._directory}/credential-db-{file.st_dev:x}-{file.st_ino:x}.partial"
        self._created: os.stat_result | None = None

    def check(self) -> None:
        """Raise if no backup can be written at this path; nothing is written."""
        self._refuse_taken()
        if not os.path.isdir(self._directory):
            raise CredentialDBError(f"the backup {self.path} has no directory: create it first")
        if os.path.realpath(self.path) in [self._database + ending for ending in SIDECARS]:
            raise CredentialDBError(f"{self.path} is a file of SQLite's own: name another backup")
        if obstacle := cannot_write(self.path):
            raise type(obstacle)(f"the backup {self.path} cannot be written: {obstacle}")
        if not self._passphrase:
            self._open(self._database).close()

    def take(self) -> None:
        """Copy the database, while its connection holds the write lock and has changed nothing."""
        self.check()
        # SQLite cannot copy from a connection that writes, so a second one reads.
        with contextlib.closing(self._open(self._database)) as source:
            self._refuse_other_file(source)
            try:
                self._copy(source)
            except BaseException as error:
                self.remove()
                if isinstance(error, OSError):
                    error.filename = self.path  # not the name that nobody typed
                raise clean(error, f"the backup {self.path}") from None

    def remove(self) -> None:
        """Remove the backup: nothing was changed, and the next run would find its name taken."""
        for path in (self._partial, self.path):
            with contextlib.suppress(FileNotFoundError):
                if self._created and os.path.samestat(os.lstat(path), self._created):
                    os.unlink(path)

    def _refuse_taken(self) -> None:
        if taken := _taken(self.path):
            raise CredentialDBError(f"the backup {taken} exists already: name a new file")

    def _copy(self, source: DBAPIConnection) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._partial)
        self._created = create_exclusively(self._partial)
        with contextlib.closing(self._open(self._partial)) as copy:
            copy.execute("PRAGMA journal_mode = OFF")  # half a copy is removed
            source.backup(copy)
        try:
            os.link(self._partial, self.path)  # unlike a rename, it never replaces a file
        except OSError:  # no hard links, as on FAT
            self._refuse_taken()
            os.rename(self._partial, self.path)
        else:
            os.unlink(self._partial)
        descriptor = os.open(self._directory, os.O_RDONLY)
        with contextlib.suppress(OSError):  # not every file system can; SQLite ignores it as well
            os.fsync(descriptor)
        os.close(descriptor)

    def _open(self, path: str) -> DBAPIConnection:
        return connect(path, module=self._module, passphrase=self._passphrase)

    def _refuse_other_file(self, source: DBAPIConnection) -> None:
        """A connection can name a file that is not its own: replaced, or that of deserialize()."""
        source.execute("PRAGMA busy_timeout = 0")
        with contextlib.suppress(self._module.OperationalError):  # locked by our own connection
            source.execute("BEGIN IMMEDIATE")
            raise CredentialDBError(
                f"{self._database} is not the database of this connection: if it was replaced, "
                "open it again"
            )


def _taken(path: str) -> str:
    """What has this name, or one that SQLite would take for a part of the backup."""
    return next((path + end for end in ("", *SIDECARS) if os.path.lexists(path + end)), "")
