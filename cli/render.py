"""Small pieces of output that several commands share; results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Collection, Iterable

import typer

from roclip_audit.core.terminal import printable
from roclip_audit.core.words import count as count
from roclip_audit.core.words import percent as percent


def painted(text: str, **style: bool | str) -> str:
    """Return text with a style of ``typer.style`` where stdout is a terminal that may have colours, else as it is.

    ``NO_COLOR`` (any value but the empty one) and ``TERM=dumb`` are honoured; nothing but the style depends on them.
    """
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") in {"dumb", "unknown"}
    return text if plain or not sys.stdout.isatty() else typer.style(text, **style)  # type: ignore[arg-type]


def print_facts(facts: Iterable[tuple[str, str]], *, warnings: Collection[str] = ()) -> None:
    """Print lines of name and value, the values under each other; both are made harmless for a terminal.

    Args:
        facts: name and value; a line without a name goes on with the one before.
        warnings: names whose value a person should not miss.
    """
    rows = [(printable(name), printable(value)) for name, value in facts]
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        shown = painted(value, fg="yellow") if name in warnings else value
        typer.echo(f"{painted(name, dim=True)}{' ' * (width - len(name))}  {shown}".rstrip())


def print_json(value: object) -> None:
    """Print a value as indented JSON, escaped down to ASCII so that a terminal obeys none of it.

    JSON has no NaN and no infinities: null stands for them.
    """
    typer.echo(json.dumps(_finite(value), indent=2, default=str, allow_nan=False))


def _finite(value: object) -> object:
    """Return the value with None in the place of every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value
