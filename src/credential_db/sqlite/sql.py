"""The tokens of a SQL statement, and one spelling for comparing statements."""

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate

from credential_db.sqlite.driver import folded, quoted

# https://www.sqlite.org/draft/tokenreq.html. Every character above U+007F belongs to a word.
_TOKEN = re.compile(
    r"(?:[ \t\n\f\r]+|--[^\n]*|/\*.*?(?:\*/|\Z))"
    r"|(?P<string>'(?:[^']|'')*')"
    r'|(?P<name>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])'
    r"|(?P<word>[\w$\u0080-\U0010ffff]+)"
    r"|(?P<sign>\|\||<<|>>|<=|>=|==|!=|<>|->>|->|.)",
    re.DOTALL,
)
_PLAIN_NAME = re.compile(r'"[a-z_][a-z0-9_]*"')
_DEPTH = {"(": 1, ")": -1}


def tokens(sql: str) -> list[str]:
    """The tokens, without white space and comments, folded as SQLite compares names.

    A word is in lower case (``check``), a quoted name has double quotes (``"check"``, however it
    was quoted), a string is as it was written (``'It''s'``).
    """
    return [token for token, _ in _scanned(sql)]


def _scanned(sql: str) -> Iterator[tuple[str, re.Match[str]]]:
    for match in _TOKEN.finditer(sql):
        text = match[0]
        if match.lastgroup == "word":
            text = folded(text)
        elif match.lastgroup == "name":
            text = quoted(folded(text[1:-1].replace(text[-1] * 2, text[-1])))
        if match.lastgroup:
            yield text, match


def definitions(create_table: str) -> list[str]:
    """The definitions of the columns and constraints of a CREATE TABLE; last, its options."""
    depth, start, found = 0, 0, []
    for token, match in _scanned(create_table):
        depth += _DEPTH.get(token, 0)
        if (depth, token) in ((1, "("), (1, ","), (0, ")")):
            found.append(create_table[start : match.start()].strip())
            start = match.end()
    return [*found[1:], create_table[start:]]


def name_of(token: str) -> str:
    """The name that a token is, without quotes."""
    return token[1:-1].replace('""', '"') if token[:1] == '"' else token


def closing(parts: Sequence[str], opening: int) -> int:
    """The position of the parenthesis that closes the one at ``opening``."""
    return opening + [*accumulate(_DEPTH.get(part, 0) for part in parts[opening:])].index(0)


def spelled(sql: str) -> str:
    """A text in one spelling: without comments, needless quotes or enclosing parentheses."""
    parts = tokens(sql)
    while parts and parts[0] == "(" and closing(parts, 0) == len(parts) - 1:
        parts = parts[1:-1]
    text = ""
    for part in parts:
        glued = part in (")", ",", ".") or text[-1:] in ("", "(", ".")
        text += ("" if glued else " ") + (part[1:-1] if _PLAIN_NAME.fullmatch(part) else part)
    return text


def laid_out(statement: str) -> str:
    """With four spaces for a tab, and indented as if its last line were not."""
    neat = re.sub(" *\n", "\n", statement.strip().expandtabs(4))
    *_, indentation = re.findall("^ *", neat, re.M)
    neat = neat.replace(f"\n{indentation}", "\n")
    return neat if tokens(neat) == tokens(statement) else statement  # a string would change
