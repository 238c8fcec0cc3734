"""Group the members of a shard into samples, exactly as open_clip's data pipeline does.

The key of a member is its path up to the first dot of the last component, the extension is the rest in lower case; a
sample is a run of adjacent members with one key. Exactly matters: where the scan groups otherwise than the training,
an attacker can show them different pairs. The tests hold this module against open_clip's and webdataset's own code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from roclip_audit.core.tar import Buffer, Damage, Member, storable, walk_members

MAX_MEMBERS_PER_SAMPLE: Final = 256

_RESERVED = frozenset(("__key__", "__url__"))
_METADATA = re.compile(r"__[^/]*__($|/)")  # webdataset's own expression for names it skips


@dataclass(frozen=True, slots=True, kw_only=True)
class Stray:
    """A member that belongs to no sample."""

    member: Member
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Adjacent members with one key.

    ``members`` maps extension (lower case, without the dot) to member, in the order of the shard. ``raw_key`` may hold
    lone surrogates; ``key`` is the same as it is stored.
    """

    ordinal: int
    raw_key: str
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The key, with bytes that are not UTF-8 spelled out."""
        return storable(self.raw_key)


def split_name(name: str) -> tuple[str, str] | None:
    r"""Split a member name into key and extension (not lower-cased); None if it has none.

    The same as webdataset's ``^((?:.*/|)[^.]+)[.]([^/]*)$``, which takes time quadratic in the number of slashes.
    The key is everything up to the first dot of the last path component.
    """
    slash = name.rfind("/")
    dot = name.find(".", slash + 1)
    if dot <= 0:
        return None
    newline = name.find("\n", 0, dot)
    start = name.rfind("/", 0, dot if newline < 0 else newline) + 1
    if start == dot:  # the last component begins with its dot: the one before it may end the key
        start = name.rfind("/", 0, dot - 1) + 1
    return None if start == dot or "." in name[start:dot] else (name[:dot], name[dot + 1 :])


def _is_metadata(name: str) -> bool:
    if not name.startswith("__"):
        return False
    return _METADATA.match(name) is not None or ("/" not in name and name.endswith("__"))


def walk_samples(buffer: Buffer) -> Iterator[Sample | Stray | Damage]:
    """Yield the samples of a shard in order, the members between them that belong to none, and a Damage at the end.

    A sample is a run of members with the same key; a repeated extension begins a new sample, as in open_clip
    (``group_by_keys_nothrow``; webdataset raises there). A stray inside a sample is yielded before it. A sample takes
    at most MAX_MEMBERS_PER_SAMPLE members, the rest are strays. Memory: one sample.
    """
    current: Sample | None = None
    ordinal = 0
    for found in walk_members(buffer):
        if isinstance(found, Damage):
            if current is not None:
                yield current
            yield found
            return
        name = found.name
        split = split_name(name) if found.is_file and not _is_metadata(name) else None
        if split is None:
            why = "no extension" if found.is_file else "not a regular file"
            yield Stray(member=found, why="metadata by its name" if _is_metadata(name) else why)
            continue
        key, extension = split[0], split[1].lower()
        if current is not None and (key != current.raw_key or extension in current.members or extension in _RESERVED):
            yield current
            current = None
        if extension in _RESERVED:  # open_clip's own fields: such a member begins a new sample there
            yield Stray(member=found, why="reserved extension")
            continue
        if current is None:
            current = Sample(ordinal=ordinal, raw_key=key)
            ordinal += 1
        if len(current.members) >= MAX_MEMBERS_PER_SAMPLE:
            yield Stray(member=found, why=f"more than {MAX_MEMBERS_PER_SAMPLE} members in one sample")
        else:
            current.members[extension] = found
    if current is not None:
        yield current
