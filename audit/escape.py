"""Make text that somebody else chose harmless in the places that results are written to.

A terminal cell is ``core.terminal.printable``; HTML has its own escaping where pages are made.
"""

from __future__ import annotations

import html
import re

from roclip_audit.core.terminal import printable

# What a spreadsheet takes for a formula, or skips before one; with the full-width signs that some fold to plain ones.
_FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
# Underscores inside a word are no markup; a bare address would become a link.
_MARKDOWN = re.compile(r"[\\`*{}\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=www)\.")


def spreadsheet_cell(text: str) -> str:
    """Put an apostrophe before text that a spreadsheet would run as a formula.

    The apostrophe changes the text: programs that read the file back want it raw.
    """
    return "'" + text if _FORMULA.match(text) else text


def markdown_cell(text: str) -> str:
    """Return text that shows as itself in one cell of a Markdown table: no markup, no link, no HTML, one line."""
    return _MARKDOWN.sub(r"\\\g<0>", html.escape(printable(text), quote=False))


def ellipsize(text: str, width: int) -> str:
    """Return ``text`` printable and cut to ``width`` terminal columns, East Asian wide characters counted as two."""
    from rich.cells import cell_len, set_cell_size

    shown = printable(text, limit=4 * width)
    if cell_len(shown) <= width:
        return shown
    return set_cell_size(shown, width - 1).rstrip() + "…"
