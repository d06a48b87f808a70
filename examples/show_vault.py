"""Show what is in a vault, but for its secrets: show_vault.py PATH."""

import sqlite3
import sys
from contextlib import closing

import credential_db


def main(path: str) -> None:
    print(credential_db.status(path))
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as vault:
        columns = [row[1] for row in vault.execute("PRAGMA table_info(ssh_keys)")]
        private = "private_pem" if "private_pem" in columns else "private_der"
        print(f"ssh_keys ({', '.join(columns)})")
        for row in vault.execute(
            f"SELECT id, key_type, length({private}), fingerprint FROM ssh_keys ORDER BY id"
        ):
            print("  key {}: {}, {} bytes, {}".format(*row))
        columns = [row[1] for row in vault.execute("PRAGMA table_info(proxy_tokens)")]
        print(f"proxy_tokens ({', '.join(columns)})")


if __name__ == "__main__":
    main(sys.argv[1])
