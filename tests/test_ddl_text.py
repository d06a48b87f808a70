"""What only the text of a CREATE statement tells, however it is written."""

import pytest

from credential_db.sqlite.ddl_text import in_parentheses, is_autoincrement, normalized


@pytest.mark.parametrize(
    "condition",
    [
        "a<>'(B  ,)'",
        "( a <> '(B  ,)' )",
        "((\"A\" <> '(B  ,)'))",
        "[a]\n  <>\t'(B  ,)'",
        "`A`<>'(B  ,)'",
    ],
)
def test_one_spelling(condition: str) -> None:
    assert normalized(condition) == "a<>'(B  ,)'"


@pytest.mark.parametrize("condition", ["(a)=(b)", "(a=')')or(b)", "')('"])
def test_parentheses_that_do_not_enclose_all_stay(condition: str) -> None:
    assert normalized(condition) == condition


CHECKS = {
    "CREATE TABLE t (a CHECK (a > (1)), CHECK(b))": ("a>(1)", "b"),
    "CREATE TABLE t (a CHECK (a <> ')'))": ("a<>')'",),
    'CREATE TABLE t (a CHECK ("a)" > 1))': ("a)>1",),
    "CREATE TABLE t (a /* CHECK (no) */ CHECK (a) -- CHECK (no)\n)": ("a",),
    "CREATE TABLE t (a DEFAULT 'CHECK (no)')": (),
    "CREATE TABLE t ([a(] CHECK ([a(] > 1))": ("a(>1)",),  # to be refused, and no traceback
}


@pytest.mark.parametrize("sql", CHECKS)
def test_what_stands_in_parentheses(sql: str) -> None:
    assert in_parentheses("CHECK", sql) == CHECKS[sql]


@pytest.mark.parametrize(
    ("sql", "is_said"),
    [
        ("CREATE TABLE t (id INTEGER PRIMARY KEY autoincrement)", True),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY /* AUTOINCREMENT */)", False),
        ("CREATE TABLE t (autoincremented INTEGER)", False),
    ],
)
def test_autoincrement(sql: str, is_said: bool) -> None:
    assert is_autoincrement(sql) == is_said
