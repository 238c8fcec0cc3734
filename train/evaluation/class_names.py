"""Class names: from the data or a file, and what the labels of the data mean among them.

A sample says its class by an index, a name, or both. With a list of names the index counts into the list; without one
both together make the list. Underscores in the names of folders and samples become spaces, because prompts are made of
them; names of a file are taken as they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from roclip_audit.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class RawLabel:
    """What one sample says about its class; at least one of index and name is there."""

    where: str
    index: int | None = None
    name: str | None = None


def spoken(name: str) -> str:
    """Return a name as a prompt says it: underscores become spaces."""
    return " ".join(name.replace("_", " ").split())


def same_class(one: str, other: str) -> bool:
    """Tell whether two names mean one class: case, underscores and repeated spaces do not count."""
    return spoken(one).casefold() == spoken(other).casefold()


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read a JSON list of names, or one name a line; the position is the index.

    Raises:
        ConfigError: the file cannot be read, has an empty name, or fewer than two.
    """
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
        listed = json.loads(text) if text.startswith("[") else text.splitlines()
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"--classes {path}: cannot be read as class names ({error})") from error
    if not all(isinstance(name, str) and name.strip() for name in listed):
        raise ConfigError(f"--classes {path}: every entry must be a name; a blank line would shift the indices")
    if len(listed) < 2:
        raise ConfigError(f"--classes {path}: fewer than two classes")
    return tuple(name.strip() for name in listed)


def resolve_labels(raw: Sequence[RawLabel], given: Sequence[str] | None) -> tuple[tuple[str, ...], list[int]]:
    """Return the class names and the label of each sample among them.

    Args:
        raw: what the samples say, at least one.
        given: names of ``--classes``; None to take those of the samples.

    Raises:
        ConfigError: an index or a name that the list does not have, names that contradict each other, indices without
            names.
    """
    if given is not None:
        return tuple(given), _labels_in(given, raw)
    nameless = next((one for one in raw if one.name is None), None)
    if nameless is not None:
        raise ConfigError(f"{nameless.where}: the class is an index, {nameless.index}, without a name: --classes FILE")
    if all(one.index is not None for one in raw):
        return _by_index(raw)
    names = tuple(sorted({spoken(one.name or "") for one in raw}))
    position = {name: index for index, name in enumerate(names)}
    return names, [position[spoken(one.name or "")] for one in raw]


def _labels_in(given: Sequence[str], raw: Sequence[RawLabel]) -> list[int]:
    position: dict[str, int] = {}
    for index, name in enumerate(given):
        position.setdefault(spoken(name), index)
    labels = []
    for one in raw:
        label = one.index if one.index is not None else position.get(spoken(one.name or ""))
        if label is None or label >= len(given):
            said = repr(one.name) if label is None else f"index {label}"
            raise ConfigError(f"{one.where}: class {said} is not among the {len(given)} names of --classes")
        labels.append(label)
    return labels


def _by_index(raw: Sequence[RawLabel]) -> tuple[tuple[str, ...], list[int]]:
    """Order names by their indices; an index that no sample has is no class."""
    names: dict[int, str] = {}
    for one in raw:
        index, name = one.index or 0, spoken(one.name or "")
        if names.setdefault(index, name) != name:
            raise ConfigError(
                f"{one.where}: class {index} is {name!r} here and {names[index]!r} before: --classes FILE"
            )
    position = {index: place for place, index in enumerate(sorted(names))}
    return tuple(names[index] for index in sorted(names)), [position[one.index or 0] for one in raw]
