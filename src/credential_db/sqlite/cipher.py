"""SQLCipher: a passphrase that never shows itself, and the driver that uses it.

https://www.zetetic.net/sqlcipher/sqlcipher-api/
"""

from types import ModuleType
from typing import NoReturn

from credential_db.sqlite.driver import DBAPIConnection, literal
from credential_db.sqlite.errors import CredentialDBError


class Passphrase:
    """A passphrase (``str``) or a raw key (``bytes``) for SQLCipher's ``PRAGMA key``."""

    __slots__ = ("_sql_literal",)

    def __init__(self, value: "str | bytes | Passphrase") -> None:
        self._sql_literal: str
        if isinstance(value, Passphrase):
            self._sql_literal = value._sql_literal
        elif not isinstance(value, str | bytes):
            raise CredentialDBError(f"a passphrase is str or bytes, not {type(value).__name__}")
        elif not value:  # which SQLCipher would take for "no encryption"
            raise CredentialDBError("the passphrase is empty: for a plain file give none at all")
        elif isinstance(value, str):
            if "\0" in value:
                raise CredentialDBError("a passphrase cannot contain a NUL character")
            self._sql_literal = literal(value)
        elif len(value) in (32, 48):
            self._sql_literal = f"\"x'{value.hex()}'\""
        else:
            raise CredentialDBError("a raw key has 32 bytes, or 48 with its salt")

    def __repr__(self) -> str:
        return "Passphrase(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a passphrase cannot be pickled")

    def unlock(self, connection: DBAPIConnection) -> None:
        """Hand the key to a connection that has just been opened."""
        connection.execute("PRAGMA cipher_log_level = NONE")  # or it writes to stderr itself
        connection.execute(f"PRAGMA key = {self._sql_literal}")
        self.refuse_plain_text(connection)

    @staticmethod
    def refuse_plain_text(connection: DBAPIConnection) -> None:
        """Raise a ``CredentialDBError`` if the driver of a connection knows no encryption."""
        if not connection.execute("PRAGMA cipher_version").fetchone():
            raise CredentialDBError("this driver would write plain text: install sqlcipher3")


def module() -> ModuleType:
    """The DB-API module that opens encrypted files; a ``CredentialDBError`` if there is none."""
    try:
        from sqlcipher3 import dbapi2  # an extra, for encrypted files only
    except ImportError:
        raise CredentialDBError(
            "encrypted files need SQLCipher: pip install 'credential-db[sqlcipher]'"
        ) from None
    found: ModuleType = dbapi2
    return found
