"""Write docs/cli.md from what the commands print for ``--help``.

    python -m roclip_audit.cli.reference docs/cli.md      (or: make docs)

A test holds the page to it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from roclip_audit.cli.main import app

WIDTH = 100
HEAD = """# Command line

Generated from `--help` by `make docs`.
"""


def reference() -> str:
    """Return the page as Markdown: the program first, then each command in the order of the program's help."""
    group = typer.main.get_command(app)
    settings: dict[str, Any] = {"terminal_width": WIDTH, "max_content_width": WIDTH}
    program = group.make_context("roclip-audit", [], resilient_parsing=True, **settings)
    sections = [HEAD, _section("roclip-audit", group.get_help(program))]
    for name in group.list_commands(program):  # type: ignore[attr-defined]
        command = group.get_command(program, name)  # type: ignore[attr-defined]
        context = command.make_context(name, [], parent=program, resilient_parsing=True, **settings)
        sections.append(_section(f"roclip-audit {name}", command.get_help(context)))
    return "\n".join(sections)


def _section(title: str, text: str) -> str:
    lines = (line.rstrip() for line in text.splitlines())
    return "\n".join([f"## {title}", "", "```text", *lines, "```", ""])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
