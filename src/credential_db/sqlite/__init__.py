"""Safe Alembic on SQLite: it knows no table, key or version of any one program."""
