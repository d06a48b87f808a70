"""The passphrase of an encrypted vault: a value that never shows itself."""

from typing import NoReturn

from credential_db.sqlite.errors import CredentialDBError

RAW_KEY_SIZES = (32, 48)  # bytes: a key, or a key and its salt


class Passphrase:
    """A passphrase (``str``) or a raw key (``bytes``) for SQLCipher's ``PRAGMA key``.

    https://www.zetetic.net/sqlcipher/sqlcipher-api/#key

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
            self._sql_literal = value.sql_literal
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

    @property
    def sql_literal(self) -> str:
        """What stands behind ``PRAGMA key =``."""
        return self._sql_literal

    def __repr__(self) -> str:
        """Say what it is, and nothing of what it holds."""
        return "Passphrase(...)"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled."""
        raise TypeError("a passphrase is not pickled")
