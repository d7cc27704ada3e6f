"""Bracketed forms of SMT-LIB 2, with the lines that they came from, and errors that name them."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from robustbench_jax.registry import nearest
from robustbench_jax.types import UserError

DEEPEST = 200  # brackets in brackets
WORD = re.compile(r"[()]|[^\s()]+")


class Token(NamedTuple):
    text: str
    line: int


class Form(NamedTuple):
    """(items ...), which begins in a line."""

    items: list
    line: int


def forms(text: str) -> Iterator[Form]:
    """The bracketed forms of a text, without comments."""
    open_: list[Form] = []
    for token in _tokens(text):
        if token.text == "(":
            open_.append(Form([], token.line))
            if len(open_) > DEEPEST:
                raise wrong(token, f"more than {DEEPEST} brackets in brackets")
        elif not open_:
            raise wrong(token, "stands outside of brackets")
        elif token.text != ")":
            open_[-1].items.append(token)
        else:
            form = open_.pop()
            if open_:
                open_[-1].items.append(form)
            else:
                yield form
    if open_:
        raise wrong(open_[0], "is never closed")


def _tokens(text: str) -> Iterator[Token]:
    for number, line in enumerate(text.splitlines(), 1):
        for word in WORD.findall(line.partition(";")[0]):
            yield Token(word, number)


def head(form: Form | Token, known: tuple[str, ...]) -> str:
    """The first word of a form; UserError where it is none of those known here."""
    if not isinstance(form, Form) or not form.items or not isinstance(form.items[0], Token):
        raise wrong(form, f"({' | '.join(known)} ...) belongs here")
    if form.items[0].text not in known:
        raise wrong(form.items[0], f"known here are {', '.join(known)}{nearest(form.items[0].text, known)}")
    return form.items[0].text


def arguments(form: Form, count: int | None = None) -> list:
    """What follows the first word: `count` of them, or at least one."""
    found = form.items[1:]
    if len(found) != count if count else not found:
        raise wrong(form, f"takes {count or 'at least 1'}, has {len(found)}")
    return found


def wrong(at: Form | Token, message: str) -> UserError:
    shown = _shown(at)
    return UserError(f"line {at.line}: '{shown if len(shown) < 60 else shown[:57] + '...'}' {message}")


def _shown(at: Form | Token) -> str:
    if isinstance(at, Token):
        return at.text
    return f"({' '.join(_shown(item) for item in at.items[:8])}{' ...' if at.items[8:] else ''})"
