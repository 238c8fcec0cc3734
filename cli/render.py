"""Small pieces of output that several commands share; results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import json
from collections.abc import Iterable

import typer

from roclip_audit.core.terminal import printable
from roclip_audit.core.words import count as count
from roclip_audit.core.words import percent as percent


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print lines of name and value, the values under each other; both are made harmless for a terminal."""
    rows = [(printable(name), printable(value)) for name, value in facts]
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        typer.echo(f"{name:<{width}}  {value}".rstrip())


def print_json(value: object) -> None:
    """Print a value as indented JSON, escaped down to ASCII so that a terminal obeys none of it."""
    typer.echo(json.dumps(value, indent=2, default=str))
