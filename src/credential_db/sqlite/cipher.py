"""SQLCipher: what unlocks an encrypted file, and a passphrase that never shows itself.

https://www.zetetic.net/sqlcipher/sqlcipher-api/
"""

from collections.abc import Container, Mapping
from typing import Any, NoReturn

from credential_db.sqlite.driver import DBAPIConnection
from credential_db.sqlite.errors import CredentialDBError

RAW_KEY_SIZES = (32, 48)  # bytes: a key, or a key and its salt

# In the order in which SQLCipher wants them: the first sets the defaults of the others.
_SETTINGS: Mapping[str, tuple[Container[int], str]] = {
    "cipher_compatibility": (range(1, 5), "a major version from 1 to 4"),
    # SQLCipher keeps 80 bytes of each page to itself, and SQLite needs 480.
    "cipher_page_size": ([2**n for n in range(10, 17)], "a power of two from 1024 to 65536"),
    "kdf_iter": (range(1, 2**31), "a number of rounds above 0"),
}


class Passphrase:
    """A passphrase (``str``) or a raw key (``bytes``) for SQLCipher's ``PRAGMA key``.

    Args:
        value: A passphrase, or a raw key of 32 bytes, or of 48 bytes with its salt.

    Raises:
        CredentialDBError: It is empty (SQLCipher would take that for "no encryption"), holds a
            NUL character, or is a raw key of another size.
    """

    __slots__ = ("_sql_literal",)

    def __init__(self, value: "str | bytes | Passphrase") -> None:
        """Check the value and keep it as a literal of SQL."""
        if isinstance(value, Passphrase):
            self._sql_literal: str = value._sql_literal
        elif not isinstance(value, str | bytes):
            raise CredentialDBError(
                f"a passphrase is a str, or bytes for a raw key, not a {type(value).__name__}"
            )
        elif not value:
            raise CredentialDBError(
                "the passphrase is empty, which SQLCipher takes to mean no encryption: give one, "
                "or none at all for a file that is not encrypted"
            )
        elif isinstance(value, str):
            if "\0" in value:
                raise CredentialDBError("a passphrase cannot hold a NUL character")
            self._sql_literal = "'" + value.replace("'", "''") + "'"
        elif len(value) in RAW_KEY_SIZES:
            self._sql_literal = f"\"x'{value.hex()}'\""
        else:
            raise CredentialDBError(
                f"a raw key has 32 bytes, or 48 with its salt, not {len(value)}; "
                "a passphrase in words is a str"
            )

    def __repr__(self) -> str:
        """Say what it is, and nothing of what it holds."""
        return "Passphrase(...)"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled."""
        raise TypeError("a passphrase is not pickled")


class Cipher:
    """Everything that opens an encrypted file.

    Args:
        passphrase: Of the file.
        settings: SQLCipher settings of the file other than the defaults:
            ``cipher_compatibility``, ``cipher_page_size`` (bytes), ``kdf_iter`` (rounds).

    Raises:
        CredentialDBError: A setting is none of these, or would make a file that nobody can read.
    """

    def __init__(
        self, passphrase: str | bytes | Passphrase, settings: Mapping[str, int] | None = None
    ) -> None:
        """Check all of it, before any file is created with it."""
        self._passphrase = Passphrase(passphrase)
        settings = dict(settings or {})
        for name, value in settings.items():
            allowed, words = _SETTINGS.get(name, ((), ""))
            if not words:
                raise CredentialDBError(f"a cipher setting is one of {', '.join(_SETTINGS)}")
            if not isinstance(value, int) or isinstance(value, bool) or value not in allowed:
                raise CredentialDBError(f"the cipher setting {name} is {words}")
        self._settings = {name: settings[name] for name in _SETTINGS if name in settings}

    @classmethod
    def given(
        cls,
        passphrase: str | bytes | Passphrase | None,
        settings: Mapping[str, int] | None,
    ) -> "Cipher | None":
        """One made of both; None where neither is given.

        Raises:
            CredentialDBError: There are settings and no passphrase, or as for the class.
        """
        if passphrase is not None:
            return cls(passphrase, settings)
        if settings:
            raise CredentialDBError(
                "cipher settings without a passphrase would make a file that is not encrypted: "
                "give the passphrase as well"
            )
        return None

    def unlock(self, connection: DBAPIConnection) -> None:
        """Hand the key to a connection that has just been opened.

        Raises:
            CredentialDBError: Its driver is built without SQLCipher, and would write plain text.
        """
        # Else SQLCipher writes lines of its own to stderr about a wrong passphrase.
        connection.execute("PRAGMA cipher_log_level = NONE")
        connection.execute(f"PRAGMA key = {self._passphrase._sql_literal}")
        refuse_plain_text(connection, "the installed sqlcipher3")
        for name, value in self._settings.items():
            connection.execute(f"PRAGMA {name} = {value}")


def refuse_plain_text(connection: DBAPIConnection, called: str) -> None:
    """Raise where a passphrase was given and this connection knows of no encryption."""
    if not connection.execute("PRAGMA cipher_version").fetchone():
        raise CredentialDBError(
            f"{called} is built without SQLCipher and would write plain text: install the package "
            "sqlcipher3 from PyPI"
        )


def module() -> Any:
    """The DB-API module that can open an encrypted file; None where it is not installed."""
    try:
        from sqlcipher3 import dbapi2  # an extra, for encrypted files alone
    except ImportError:
        return None
    return dbapi2


INSTALL = "encrypted files need SQLCipher: pip install 'credential-db[sqlcipher]'"
