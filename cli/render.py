"""Small pieces of output that several commands share; results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import json
from collections.abc import Iterable

import typer

from roclip_audit.core.progress import counted
from roclip_audit.core.terminal import printable


def percent(share: float) -> str:
    """Return a share with three digits at most: ``0.046 %``, ``6.4 %``, ``41 %``."""
    value = 100 * share
    digits = 0 if value >= 9.95 else 1 if value >= 0.995 else 2 if value >= 0.0995 else 3
    return f"{value:.{digits}f} %"


def count(n: int, noun: str) -> str:
    """Return ``1 pair``, ``6,881 pairs``; ``noun`` is in the singular."""
    return counted(n, f"{noun}s")


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print lines of name and value, the values under each other; both are made harmless for a terminal."""
    rows = [(printable(name), printable(value)) for name, value in facts]
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        typer.echo(f"{name:<{width}}  {value}".rstrip())


def print_json(value: object) -> None:
    """Print a value as indented JSON, escaped down to ASCII so that a terminal obeys none of it."""
    typer.echo(json.dumps(value, indent=2, default=str))
