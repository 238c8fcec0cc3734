"""Text that somebody else chose, made fit for the page: harmless, on one line, of bounded length.

Jinja escapes what HTML would obey. What is left is what a browser obeys in plain text: control characters, marks that
reorder letters, unseen tag characters. ``printable`` shows them as escapes, as on a terminal. Letters of languages that
run from right to left stay; the template isolates them (``dir="auto"``), so that they turn nothing around them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from roclip_audit.core.terminal import printable

CAPTION_CHARS: Final = 240
NAME_CHARS: Final = 80


@dataclass(frozen=True, slots=True)
class Shown:
    """The beginning of a text, and how long all of it is if that is longer; else 0."""

    head: str
    n_chars: int = 0


def shown(text: str | None, limit: int = CAPTION_CHARS) -> Shown:
    """Cut a text for the page.

    Args:
        text: hostile text; None and nothing but white space become an empty head.
        limit: most characters of the result.
    """
    whole = (text or "").strip()
    if len(whole) <= limit:
        return Shown(printable(whole, limit=4 * limit))
    return Shown(printable(whole[:limit].rstrip(), limit=4 * limit) + "…", len(whole))


def short(text: str | None, limit: int = NAME_CHARS) -> str:
    """Return one line of at most ``limit`` characters, for names and labels."""
    return printable((text or "").strip(), limit=limit)
