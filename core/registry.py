"""Find the members of a plug-in kind: an explicit table, name -> "module:Class", imported only when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from roclip_audit.core.errors import ConfigError


def require_member(kind: str, name: str, names: Iterable[str]) -> None:
    """Raise ConfigError if no member of a kind has this name; the message lists those there are.

    Args:
        kind: what a member is called, as in "unknown attack".
        name: asked for.
        names: of all members.
    """
    known = tuple(names)
    if name not in known:
        raise ConfigError(f"unknown {kind} {name!r}; one of {', '.join(known)}")


def load_member(target: str, package: str = "") -> Any:  # noqa: ANN401 - a class of whatever kind
    """Import the class that a table's entry names.

    Args:
        target: ``module:Class``.
        package: what the module's name is relative to; empty for a whole one.
    """
    module, _, class_name = target.partition(":")
    return getattr(importlib.import_module(f"{package}.{module}" if package else module), class_name)
