"""Redis's glob patterns: CONFIG GET's, in any case, and PSUBSCRIBE's. Source: redis-server 7.0, util.c."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

LONGEST_KEPT: Final = 64
"""Bytes of a pattern that is worth keeping in its compiled form, which is much larger."""


def matches(pattern: bytes, text: bytes, *, nocase: bool = True) -> bool:
    """Whether the text is what Redis's glob pattern describes; with ``nocase`` it is to be in lower case.

    The time it takes grows with the product of their lengths and no faster.
    """
    if not text:
        return not pattern  # not even "*" matches it
    tokens = _kept(pattern, nocase) if len(pattern) <= LONGEST_KEPT else _compiled(pattern, nocase, len(text))
    if tokens is None:
        return False
    at = position = 0
    star, retry = -1, 0  # the last star passed, and where its match is to end
    while position < len(text):
        token = tokens[at] if at < len(tokens) else frozenset[int]()
        if token is None:
            star, retry = at, position
            at += 1
        elif text[position] in token:
            at += 1
            position += 1
        elif star >= 0:
            retry += 1
            at, position = star + 1, retry
        else:
            return False
    return all(token is None for token in tokens[at:])


_ANY_BYTE: Final = frozenset(range(256))
_AS_IT_IS: Final = bytes(range(256))
_LOWER: Final = _AS_IT_IS.lower()


Tokens = tuple[frozenset[int] | None, ...]


def _compiled(pattern: bytes, nocase: bool, longest: int) -> Tokens | None:
    """The pattern's parts; None if only what is longer than this can match: a pattern may be of any size."""
    tokens: list[frozenset[int] | None] = []
    bytes_wanted = 0
    for token in _tokens(pattern, _LOWER if nocase else _AS_IT_IS):
        if token is not None:
            bytes_wanted += 1
            if bytes_wanted > longest:
                return None
        elif tokens and tokens[-1] is None:
            continue
        tokens.append(token)
    return tuple(tokens)


@lru_cache(maxsize=256)  # PUBLISH goes through the same patterns again and again
def _kept(pattern: bytes, nocase: bool) -> Tokens | None:
    return _compiled(pattern, nocase, LONGEST_KEPT)


def _tokens(pattern: bytes, case: bytes) -> Iterator[frozenset[int] | None]:
    """What each part of a glob pattern stands for: one of some bytes, or None for any number of any."""
    at, size = 0, len(pattern)
    while at < size:
        byte = pattern[at : at + 1]
        if byte == b"*":
            yield None
        elif byte == b"?":
            yield _ANY_BYTE
        elif byte == b"[":
            at, members = _bracket(pattern, at + 1, case)
            yield members
        else:
            if byte == b"\\" and at + 1 < size:
                at += 1
            yield frozenset((case[pattern[at]],))
        at += 1


def _bracket(pattern: bytes, at: int, case: bytes) -> tuple[int, frozenset[int]]:
    """The bytes a [class] stands for and where it ends; one that is not closed ends the pattern."""
    negated = pattern[at : at + 1] == b"^"
    at += negated
    members: set[int] = set()
    while at < len(pattern) and pattern[at : at + 1] != b"]":
        if pattern[at : at + 1] == b"\\" and at + 1 < len(pattern):
            at += 1
            members.add(case[pattern[at]])
        elif pattern[at + 1 : at + 2] == b"-" and at + 2 < len(pattern):
            low, high = sorted((pattern[at], pattern[at + 2]))  # before their case goes, as Redis does
            members.update(range(case[low], case[high] + 1))
            at += 2
        else:
            members.add(case[pattern[at]])
        at += 1
    return at, _ANY_BYTE - members if negated else frozenset(members)
