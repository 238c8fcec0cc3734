"""Make text that somebody else chose safe to print on a terminal."""

from __future__ import annotations

import re
import sys
import unicodedata
from typing import TextIO

_DANGEROUS = frozenset({"Cc", "Cs", "Zl", "Zp"})  # controls, lone surrogates, line and paragraph separators
# Reordering marks make text read other than it is; tag characters and the byte order mark carry text unseen.
_UNSEEN = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f]")


def _escape(character: str) -> str:
    if unicodedata.category(character) not in _DANGEROUS and not _UNSEEN.match(character):
        return character
    return character.encode("unicode_escape").decode("ascii")


def printable(text: str, *, limit: int | None = None) -> str:
    r"""Return ``text`` on one line, with everything that could steer a terminal shown as an escape.

    Control characters (``\x1b`` starts the sequences that move the cursor, set the title or write the clipboard), line
    breaks, lone surrogates, reordering marks and tag characters become ``\x1b``, ``\n``, ``\u202e``. Letters of
    every language, emoji and their joiners stay. Plain text comes back unchanged.

    Args:
        text: captions, keys, file names, error messages.
        limit: longest result in characters, at least 1; a cut is shown by an ellipsis.
    """
    # Cutting first keeps the cost bounded for a caption of a gigabyte; escapes only ever make text longer.
    head = text if limit is None else text[: limit + 1]
    shown = head if head.isascii() and head.isprintable() else "".join(map(_escape, head))
    return shown if limit is None or len(shown) <= limit else shown[: limit - 1] + "…"


def say(message: str, *, stream: TextIO | None = None) -> None:
    """Print one line for a person, on stderr unless told otherwise, with whatever it quotes made harmless."""
    target = sys.stderr if stream is None else stream
    target.write(printable(message) + "\n")
    target.flush()
