"""Names of shards: brace patterns as bash and webdataset have them, expanded within bounds, and natural order."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Final

from roclip_audit.core.errors import ConfigError

MAX_EXPANSIONS: Final = 1_000_000
MAX_NESTING: Final = 8

_NUMBERS = re.compile(r"(-?[0-9]{1,18})\.\.(-?[0-9]{1,18})(?:\.\.-?([0-9]{1,18}))?")
_LETTERS = re.compile(r"([a-z])\.\.([a-z])|([A-Z])\.\.([A-Z])")


def is_shard_name(name: str) -> bool:
    """Return whether a base name found in a listing is a shard's: ``*.tar``, not hidden."""
    return name.endswith(".tar") and not name.startswith(".")


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key that puts ``x-2`` before ``x-10``; numbers of equal value order by their spelling."""
    return tuple(
        (0, int(piece[:1000]), piece) if piece.isdecimal() and piece.isascii() else (1, 0, piece)
        for piece in re.split(r"([0-9]+)", text)
        if piece
    )


def expand_braces(pattern: str, *, limit: int = MAX_EXPANSIONS) -> list[str]:
    """Expand ``{a,b}``, ``{00..99}``, ``{9..0..3}`` and ``{a..e}``, nested if need be, in the order of bash.

    A brace pair that is neither a list nor a range stays as it is. The work is bounded by ``limit``.

    Raises:
        ConfigError: braces do not pair up, nest too deeply, or mean more than ``limit`` names.
    """
    depth = deepest = 0
    for character in pattern:
        depth += {"{": 1, "}": -1}.get(character, 0)
        deepest = max(deepest, depth)
        if depth < 0:
            break
    if depth != 0:
        raise ConfigError(f"{pattern!r}: braces do not pair up")
    if deepest > MAX_NESTING:
        raise ConfigError(f"{pattern!r}: braces nest deeper than {MAX_NESTING}")
    expanded = list(itertools.islice(_expand(pattern), limit + 1))
    if len(expanded) > limit:
        raise ConfigError(f"{pattern!r}: means more than {limit:,} names; check the range")
    return expanded


def _expand(pattern: str) -> Iterator[str]:
    opening = pattern.find("{")
    if opening < 0:
        yield pattern
        return
    closing = _closing(pattern, opening)
    head, inner, tail = pattern[:opening], pattern[opening + 1 : closing], pattern[closing + 1 :]
    for middle in _alternatives(inner):
        for rest in _expand(tail):
            yield f"{head}{middle}{rest}"


def _closing(pattern: str, opening: int) -> int:
    depth = 0
    for position in range(opening, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[position], 0)
        if depth == 0:
            return position
    raise ConfigError(f"{pattern!r}: braces do not pair up")


def _alternatives(inner: str) -> Iterable[str]:
    if match := _NUMBERS.fullmatch(inner):
        return _numbers(match[1], match[2], match[3])
    if match := _LETTERS.fullmatch(inner):
        first, last = match[1] or match[3], match[2] or match[4]
        step = 1 if first <= last else -1
        return (chr(code) for code in range(ord(first), ord(last) + step, step))
    pieces = _split_at_commas(inner)
    if len(pieces) == 1:
        return (f"{{{text}}}" for text in _expand(inner))
    return itertools.chain.from_iterable(map(_expand, pieces))


def _numbers(first: str, last: str, step: str | None) -> Iterator[str]:
    padded = any(re.match(r"-?0[0-9]", text) for text in (first, last))
    width = max(len(first), len(last)) if padded else 0
    start, stop, stride = int(first), int(last), int(step or 1) or 1
    numbers = range(start, stop + 1, stride) if start <= stop else range(start, stop - 1, -stride)
    return (f"{number:0{width}d}" for number in numbers)


def _split_at_commas(inner: str) -> list[str]:
    pieces, depth, start = [], 0, 0
    for position, character in enumerate(inner):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            pieces.append(inner[start:position])
            start = position + 1
    return [*pieces, inner[start:]]
