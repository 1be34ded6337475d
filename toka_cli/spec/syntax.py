"""Says in toka's words what a YAML parser found wrong, and sees what parsers let pass: tabs that look like indentation.

The parser's sentence and place come in, message and hint go out. Pure.
"""

from __future__ import annotations

import re
from typing import Final

TAB: Final = ("a tab indents this line; YAML takes spaces only", "replace the tab with spaces")

# (words of libyaml or PyYAML, our message, our hint); the first that fits is used.
_WORDS: Final[tuple[tuple[str, str, str | None], ...]] = (
    (
        "mapping values are not allowed",
        "a ':' cannot stand here",
        "put text that holds ': ' in quotes, and check the indentation of this line",
    ),
    ("could not find expected ':'", "a key without its ':'", "check this line and the one before it"),
    (
        "did not find expected key",
        "a 'key: value' was expected here",
        "the indentation does not fit the lines above, or a quote is missing",
    ),
    ("expected <block end>", "a 'key: value' was expected here", "the indentation does not fit the lines above, or a quote is missing"),
    ("did not find expected '-' indicator", "a list entry that begins with '- ' was expected here", "indent the entries of one list alike"),
    ("block sequence entries are not allowed", "a list entry cannot begin here", "put the '- ' on a line of its own"),
    ("expected ',' or ']'", "',' or ']' was expected here", "a list that begins with '[' is not closed"),
    ("expected ',' or '}'", "',' or '}' was expected here", "a mapping that begins with '{' is not closed"),
    ("while scanning a quoted scalar", "a quote is not closed", "the text that begins here has no closing quote"),
    ("unexpected end of stream", "the file ends in the middle of something", "a quote or bracket is not closed"),
    ("unknown escape character", "this escape is not known in double quotes", "use single quotes, or write \\\\ for a backslash"),
    ("did not find expected hexdecimal number", "this escape needs hexadecimal digits", "use single quotes, or write \\\\ for a backslash"),
    ("invalid Unicode character escape code", "this escape is no character", 'write the character itself, or "\\U0001F600"'),
    ("undefined tag handle", "tags are not read here", "remove the '!' or put the text in quotes"),
    ("cannot start any token", "text cannot begin with this character", "put the text in quotes"),
    ("sequence entries are not allowed", "a list entry cannot begin here", "put the '- ' on a line of its own"),
    ("expected alphabetic or numeric character", "a name is missing after '&' or '*'", "put text that begins with '&' or '*' in quotes"),
    ("did not find expected node content", "a value was expected here", "put the text in quotes"),
    ("expected the node content", "a value was expected here", "put the text in quotes"),
    (
        "did not find expected <document start>",
        "this does not fit the document above",
        "check the indentation of this line, or begin a new document with ---",
    ),
    (
        "expected '<document start>'",
        "this does not fit the document above",
        "check the indentation of this line, or begin a new document with ---",
    ),
    ("block collections in flow", "a list or mapping in lines cannot stand inside brackets", None),
    ("tab character", TAB[0], TAB[1]),
    ("YAML document", "the %YAML line is not known", "remove it"),
    ("directive", "this line begins with '%' and is no directive that is known", "put the text in quotes"),
    ("chomping or indentation", "after '|' or '>' comes the end of the line", None),
)
_BREAK: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_INDENT_TAB: Final = re.compile(r"[ ]*\t")


def explained(problem: str, context: str, line_text: str) -> tuple[str, str | None]:
    """Return message and hint for what a parser said about a line."""
    if _INDENT_TAB.match(line_text):
        return TAB
    for words, message, hint in _WORDS:
        if words in problem or words in context:
            return message, hint
    # The parser's own words are plain ASCII sentences; anything longer or stranger is not shown.
    said = problem if problem.isascii() and problem.isprintable() and len(problem) <= 120 else ""
    return (f"not YAML: {said}" if said else "not YAML"), None


def lines_of(text: str) -> list[str]:
    """Return the lines of a text by the breaks that YAML counts."""
    return _BREAK.split(text)


def tab_in_lines(lines: list[str], first: int, last: int) -> int | None:
    """Return the line (from 0) between `first` and `last` in which a tab indents the continuation of a plain scalar, or None.

    Parsers take it, and silently join lines that look like separate entries.
    """
    for number in range(first + 1, min(last + 1, len(lines))):
        if _INDENT_TAB.match(lines[number]) and lines[number].strip():
            return number
    return None
