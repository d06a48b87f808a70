"""What only the text of a ``CREATE`` statement tells, in one spelling."""

import re
from collections.abc import Iterator
from functools import cache


def is_autoincrement(sql: str) -> bool:
    """Whether a ``CREATE TABLE`` says AUTOINCREMENT."""
    return re.search(r"\bAUTOINCREMENT\b", without_comments(sql), re.IGNORECASE) is not None


@cache
def in_parentheses(word: str, sql: str) -> tuple[str, ...]:
    """What stands behind each CHECK, say, of a ``CREATE TABLE``, in one spelling.

    No pragma tells them.
    """
    return tuple(sorted(normalized(text) for _, text in behind(rf"\b{word}", sql)))


def behind(pattern: str, sql: str) -> Iterator[tuple[re.Match[str], str]]:
    """What is found outside of strings and comments, and the text in parentheses behind it."""
    sql = without_comments(sql)
    bare = STRING.sub(lambda string: "_" * len(string[0]), sql)
    for match in re.finditer(rf"{pattern}\s*\(", bare, re.IGNORECASE | re.DOTALL):
        yield match, sql[match.end() : _closing(bare, match.end()) - 1]


def _closing(sql: str, start: int) -> int:
    """Where the parentheses end that were opened just before a position."""
    depth, quote, end = 1, "", start
    while depth and end < len(sql):  # a name in brackets may hold one alone
        character = sql[end]
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"`":
            quote = character
        else:
            depth += {"(": 1, ")": -1}.get(character, 0)
        end += 1
    return end


# A name of SQL, with or without quotation marks.
NAME = r'(?:"(?:[^"]|"")*"|\[[^\]]*\]|`[^`]*`|\w+)'
__COMMENT_OR_STRING = re.compile(r"('(?:[^']|'')*')|--[^\n]*|/\*.*?\*/", re.DOTALL)
STRING = re.compile(r"('(?:[^']|'')*')")
COLLATED_COLUMN = re.compile(
    r'[(,]\s*["`\[]?(\w+)["`\]]?\s[^,()]*?\bCOLLATE\s+["`\[]?(\w+)', re.IGNORECASE
)


def without_comments(sql: str) -> str:
    """The same statement, a space for each comment."""
    return __COMMENT_OR_STRING.sub(lambda match: match[1] or " ", sql)


def normalized(condition: str) -> str:
    """One spelling: no quotes around names, no needless white space or parentheses."""
    parts = STRING.split(condition)
    for position in range(0, len(parts), 2):  # what is not a string
        bare = re.sub(r'["`\[\]]', "", parts[position]).lower()
        bare = re.sub(r"\s+", " ", bare)
        parts[position] = re.sub(r" ?([(),<>=!+*/|-]) ?", r"\1", bare)
    text = "".join(parts).strip()
    while _encloses_all(text):
        text = text[1:-1].strip()
    return text


def _encloses_all(text: str) -> bool:
    if not (text.startswith("(") and text.endswith(")")):
        return False
    depth = 0
    for position, character in enumerate(STRING.sub(lambda m: "'" * len(m[0]), text)):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return position == len(text) - 1
    return False
