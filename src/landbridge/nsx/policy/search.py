"""The search API's query language: the part of Lucene's that people use.

`resource_type:Segment AND display_name:web* AND NOT (tags.scope:env OR "exact words")`. A field may be nested
(`tags.tag`); a term without a field matches name, description, id or tags. Without an operator between them two terms
are joined by AND, as NSX does.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from landbridge.nsx.policy import faults

Predicate = Callable[[dict[str, Any]], bool]
_TOKEN = re.compile(r'\s*(?:(?P<punct>[()])|(?P<word>(?:"(?:\\.|[^"\\])*"|\\.|[^\s()"])+))')
_FREE = ("display_name", "description", "id", "tags.tag", "tags.scope")
_DEEPEST = 50  # parentheses and denials in each other


@dataclass
class _Tokens:
    items: list[str]
    at: int = 0
    depth: int = 0

    def peek(self) -> str:
        return self.items[self.at] if self.at < len(self.items) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def enter(self) -> None:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise faults.invalid("query: nested too deeply")


def parse(query: str) -> Predicate:
    """What an object must be; Fault 400 for a query that is none."""
    tokens = _Tokens(_split(query))
    if not tokens.items:
        raise faults.invalid("query: it is empty")
    found = _either(tokens)
    if tokens.peek():
        raise faults.invalid(f"query: unexpected {tokens.peek()!r}")
    return found


def _split(query: str) -> list[str]:
    items, at = [], 0
    text = query.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise faults.invalid(f"query: not understood from {text[at : at + 20]!r} on")
        items.append(match.group("punct") or match.group("word"))
        at = match.end()
    return items


def _either(tokens: _Tokens) -> Predicate:
    parts = [_both(tokens)]
    while tokens.peek() in ("OR", "||"):
        tokens.take()
        parts.append(_both(tokens))
    return parts[0] if len(parts) == 1 else lambda one: any(part(one) for part in parts)


def _both(tokens: _Tokens) -> Predicate:
    parts = [_one(tokens)]
    while tokens.peek() not in ("", ")", "OR", "||"):
        if tokens.peek() in ("AND", "&&"):
            tokens.take()
        parts.append(_one(tokens))
    return parts[0] if len(parts) == 1 else lambda one: all(part(one) for part in parts)


def _one(tokens: _Tokens) -> Predicate:
    token = tokens.take()
    if token in ("NOT", "!"):
        return _not(tokens)
    if token == "(":  # noqa: S105 - a parenthesis
        tokens.enter()
        inner = _either(tokens)
        if tokens.take() != ")":
            raise faults.invalid("query: a parenthesis is not closed")
        tokens.depth -= 1
        return inner
    if token in ("", ")", "AND", "OR", "&&", "||"):
        raise faults.invalid(f"query: a term is missing before {token or 'its end'!r}")
    if token[0] in "!-" and len(token) > 1:
        tokens.at -= 1
        tokens.items[tokens.at] = token[1:]
        return _not(tokens)
    return _term(tokens, token)


def _not(tokens: _Tokens) -> Predicate:
    tokens.enter()
    denied = _one(tokens)
    tokens.depth -= 1
    return lambda one: not denied(one)


def _term(tokens: _Tokens, token: str) -> Predicate:
    field, value = _field_and_value(token)
    if field and not value:  # field:(a OR b)
        if tokens.peek() != "(":
            raise faults.invalid(f"query: {field} has no value")
        tokens.take()
        values = _listed(tokens, field)
        return lambda one: any(value(one) for value in values)
    return _match(field, value)


def _listed(tokens: _Tokens, field: str) -> list[Predicate]:
    found = []
    while (token := tokens.take()) != ")":
        if not token or token in ("(", "AND", "NOT"):
            raise faults.invalid(f"query: {field}:(...) takes values joined by OR")
        if token != "OR":  # noqa: S105 - a word of the language
            found.append(_match(field, token))
    return found


def _field_and_value(token: str) -> tuple[str, str]:
    match = re.match(r"([\w.]+):(.*)", token, re.DOTALL)
    return (match[1], match[2]) if match else ("", token)


def _match(field: str, value: str) -> Predicate:
    if value == "*":
        return lambda one: not field or _has(one, field)
    pattern = _pattern(value)
    fields = (field,) if field else _FREE
    return lambda one: any(_fits(text.lower(), pattern) for name in fields for text in _values(one, name))


def _pattern(value: str) -> list[str]:
    """The characters of a value, in lower case; `*` and `?` that stand for others as themselves twice."""
    quoted = len(value) > 1 and value[0] == value[-1] == '"'
    text = value[1:-1] if quoted else value
    pieces = re.findall(r"\\.|.", text.lower(), re.DOTALL)
    wild = ("*",) if quoted else ("*", "?")
    return [piece * 2 if piece in wild else piece[-1] for piece in pieces]


def _fits(text: str, pattern: list[str]) -> bool:
    """Whether the text is of the pattern. By hand: a regular expression with many `*` can take for ever."""
    at = place = 0
    star, resumed = -1, 0
    while at < len(text):
        piece = pattern[place] if place < len(pattern) else ""
        if piece == "**":
            star, resumed, place = place, at, place + 1
        elif piece in ("??", text[at]):
            at, place = at + 1, place + 1
        elif star >= 0:
            resumed += 1
            at, place = resumed, star + 1
        else:
            return False
    return all(piece == "**" for piece in pattern[place:])


def _has(one: Any, field: str) -> bool:
    if isinstance(one, list):
        return any(_has(element, field) for element in one)
    name, _, rest = field.partition(".")
    return isinstance(one, dict) and name in one and (not rest or _has(one[name], rest))


def _values(one: Any, field: str) -> Iterator[str]:
    """All values at a dotted path, of lists each element's."""
    if isinstance(one, list):
        for element in one:
            yield from _values(element, field)
    elif not field:
        if isinstance(one, bool):
            yield str(one).lower()
        elif isinstance(one, str | int | float):
            yield str(one)
    elif isinstance(one, dict):
        name, _, rest = field.partition(".")
        if name in one:
            yield from _values(one[name], rest)
