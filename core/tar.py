"""Walk the headers of a tar that may be hostile; core.samples groups the members into samples.

Nothing is extracted or decoded. A walk over a memory-mapped shard touches one block per member: about six times the
samples per second of a stream read by the standard library's tarfile, which is the oracle of the tests.

Understood: USTAR and V7 headers, GNU long names (``L``, ``K``), PAX headers (``x``: path and size; ``g`` if it changes
neither), octal and base-256 sizes, checksums. Where readers are known to disagree (sparse files, a global header that
renames or resizes what follows, a size that is not a number, two headers that name one member, a name that is longer
than its size), the walk stops and says so rather than guess: otherwise a shard could show one pair to the scan and
another to the training.

Damage ends a walk: what follows a broken header is not searched for the next good one, because anything might be found
inside the bytes of an image. The Damage says how many bytes were left unread.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from zlib import adler32

Buffer = bytes | mmap.mmap

BLOCK: Final = 512
MAX_NAME_BYTES: Final = 4_096
MAX_EXTENSION_BYTES: Final = 1 << 20

_ZERO_BLOCK = bytes(BLOCK)
_REGULAR = frozenset((0x00, 0x30, 0x37))  # V7 file, file, contiguous file
_WITHOUT_DATA = frozenset(b"123456")  # links, devices, folders, pipes: a size in their header counts nothing
_EXTENSIONS = frozenset(b"LKxXg")
_SPARSE = 0x53  # "S"
_SURROGATE = re.compile("[\ud800-\udfff]")
_PAX_LENGTH = re.compile(rb"([0-9]{1,7}) ")
_MAGIC: Final = {
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"PK\x03\x04": "a zip file",
    b"PAR1": "a parquet file",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"<": "HTML or XML",
    b"version https://git-lfs": "a git-lfs pointer",
}


class Member(NamedTuple):
    """One member of a tar. A tuple, not a dataclass, because a walk makes hundreds of thousands a second."""

    name: str
    """As tarfile has it: bytes that are not UTF-8 are lone surrogates."""
    is_file: bool
    start: int
    """Where its first header begins (an extended header, if it has one)."""
    offset: int
    """Where its data begins."""
    size: int
    """Bytes of data."""
    end: int
    """Where the next header begins; past the end of the buffer if only padding is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Why a walk ended other than at a proper end of the archive."""

    reason: str
    """One of core.problems.REASONS."""
    detail: str
    offset: int
    n_unread: int
    """Bytes from ``offset`` on that no member was taken from."""

    @property
    def fatal(self) -> bool:
        """True if pairs may have been lost."""
        return self.reason not in ("tar_unterminated", "tar_trailing_data")


def storable(text: str) -> str:
    """Return text that can be written as UTF-8: lone surrogates, such as bad bytes of a name, are spelled out."""
    return text if _SURROGATE.search(text) is None else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _number(raw: bytes) -> int | None:
    """Parse a number field, octal or base-256; None if it is neither, or negative."""
    if raw[0] == 0x80:
        return int.from_bytes(raw[1:], "big")
    digits = raw.lstrip(b" ").rstrip(b" \0")
    if not digits:
        return 0
    return int(digits, 8) if not digits.translate(None, b"01234567") else None


def _sum(header: bytes) -> int:
    """Add up the bytes of a header; the checksum's own field counts as eight spaces."""
    # adler32 adds up bytes in C; below 257 of them its low half is the plain sum plus one.
    sums = (adler32(header[:148]) & 0xFFFF) + (adler32(header[156:334]) & 0xFFFF) + (adler32(header[334:]) & 0xFFFF)
    return sums - 3 + 8 * 32


def _checksum_holds(header: bytes) -> bool:
    total = _sum(header)
    expected = _number(header[148:156])
    if expected == total:
        return True
    above = sum(byte > 127 for byte in header[:148] + header[156:])  # some old writers summed signed characters
    return expected == total - 256 * above


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _pax_records(body: bytes) -> dict[str, bytes] | None:
    """Parse ``length keyword=value`` records; None if they are malformed."""
    records: dict[str, bytes] = {}
    position = 0
    while position < len(body):
        match = _PAX_LENGTH.match(body, position)
        end = position + int(match[1]) if match else 0
        if match is None or end > len(body) or end <= match.end() or body[end - 1 : end] != b"\n":
            return None
        keyword, equals, value = body[match.end() : end - 1].partition(b"=")
        if not equals:
            return None
        records[keyword.decode("utf-8", "replace")] = value
        position = end
    return records


@dataclass(slots=True)
class _Extension:
    """What extended headers say about the member that follows them."""

    name: str | None = None
    size: int | None = None
    seen: set[int] = field(default_factory=set)

    def take(self, kind: int, body: bytes) -> str | None:
        """Take one extended header; return what is wrong with it, if anything."""
        if kind in self.seen and kind != ord("g"):
            return f"two '{chr(kind)}' headers for one member"
        self.seen.add(kind)
        if kind == ord("L"):
            return self._rename(_text(body))
        return None if kind == ord("K") else self._take_pax(body, is_global=kind == ord("g"))

    def _rename(self, name: str) -> str | None:
        if self.name is not None:
            return "two headers name one member"
        self.name = name
        return None if len(name) <= MAX_NAME_BYTES else f"a name of {len(name)} characters"

    def _take_pax(self, body: bytes, *, is_global: bool) -> str | None:
        records = _pax_records(body)
        if records is None:
            return "malformed PAX records"
        if sparse := [keyword for keyword in records if keyword.startswith("GNU.sparse.")]:
            return f"a sparse file ({sparse[0]})"
        meaningful = records.keys() & {"path", "size", "hdrcharset"}
        if is_global:
            return f"a global header that sets {', '.join(sorted(meaningful))}" if meaningful else None
        if "size" in records:
            if not records["size"].isdigit() or len(records["size"]) > 19:
                return "a PAX size that is no number"
            self.size = int(records["size"])
        if "path" in records:
            return self._rename(records["path"].decode("utf-8", "surrogateescape").rstrip("/"))
        return None


def _begins_like(buffer: Buffer) -> str:
    start = bytes(buffer[:32])
    known = next((what for magic, what in _MAGIC.items() if start.startswith(magic)), None)
    return f"not a tar archive: it begins like {known}" if known else "not a tar archive"


def _damage(buffer: Buffer, offset: int, reason: str, detail: str) -> Damage:
    return Damage(reason=reason, detail=f"at byte {offset}: {detail}", offset=offset, n_unread=len(buffer) - offset)


def _trailing(buffer: Buffer, offset: int) -> Damage | None:
    """Look for anything but zeros after the end-of-archive mark."""
    for position in range(offset, len(buffer), 1 << 20):
        rest = buffer[position : position + (1 << 20)].lstrip(b"\0")
        if rest:
            found = min(position + (1 << 20), len(buffer)) - len(rest)
            return _damage(buffer, found, "tar_trailing_data", "data after the end-of-archive mark")
    return None


def _read_member(buffer: Buffer, start: int) -> Member | Damage | None:
    """Read the member whose first header is at ``start``; None at the end-of-archive mark."""
    total = len(buffer)
    position = start
    extension: _Extension | None = None
    while True:
        header = buffer[position : position + BLOCK]
        if len(header) < BLOCK:
            return _short(buffer, start, position)
        if header == _ZERO_BLOCK:
            return None if extension is None else _damage(buffer, start, "tar_damaged", "a header without its member")
        if not _checksum_holds(header):
            detail = _begins_like(buffer) if start == 0 else "a header with a wrong checksum"
            return _damage(buffer, start, "tar_damaged", detail)
        size = _number(header[124:136])
        if size is None:
            return _damage(buffer, start, "tar_unsupported", "a size that is no octal or base-256 number")
        kind = header[156]
        if kind not in _EXTENSIONS:
            break
        if size > MAX_EXTENSION_BYTES:
            return _damage(buffer, start, "tar_unsupported", f"an extended header of {size} bytes")
        body_end = position + BLOCK + size
        body = buffer[position + BLOCK : body_end]
        position += BLOCK + _padded(size)
        if position > total:
            return _damage(buffer, start, "tar_truncated", "the shard ends in an extended header")
        if buffer[body_end:position][:1].strip(b"\0"):  # tarfile reads on in the padding, others do not
            return _damage(buffer, start, "tar_unsupported", "an extended header that goes on in its padding")
        extension = extension or _Extension()
        if wrong := extension.take(kind, body):
            return _damage(buffer, start, "tar_unsupported", wrong)
    if kind == _SPARSE:
        return _damage(buffer, start, "tar_unsupported", "a sparse file")
    return _finish(buffer, start, position, header, size, extension)


def _finish(
    buffer: Buffer, start: int, position: int, header: bytes, size: int, extension: _Extension | None
) -> Member | Damage:
    """Make the member from its own header, at ``position``, and what extended headers said."""
    kind = header[156]
    name = _text(header[:100])
    is_file = kind in _REGULAR and not (kind == 0 and name.endswith("/"))  # V7 marks folders by a slash
    if header[345]:
        name = f"{_text(header[345:500])}/{name}"
    if extension is not None:
        name = name if extension.name is None else extension.name
        size = size if extension.size is None else extension.size
    offset = position + BLOCK
    stored = 0 if kind in _WITHOUT_DATA or (kind == 0 and not is_file) else size
    if offset + stored > len(buffer):
        n_missing = offset + stored - len(buffer)
        detail = f"the shard ends {n_missing} bytes before the end of member {storable(name)[:80]!r}"
        return _damage(buffer, start, "tar_truncated", detail)
    return Member(name, is_file, start, offset, stored, offset + _padded(stored))


def _short(buffer: Buffer, start: int, position: int) -> Damage:
    """Say what it means that there is no whole block left at ``position``."""
    total = len(buffer)
    if total == 0:
        return _damage(buffer, 0, "tar_damaged", "the file is empty")
    if position >= total and position == start:
        return _damage(buffer, min(position, total), "tar_unterminated", "no end-of-archive mark")
    if position == 0:
        return _damage(buffer, 0, "tar_damaged", _begins_like(buffer))
    return _damage(buffer, start, "tar_truncated", "the shard ends in a header")


def walk_members(buffer: Buffer) -> Iterator[Member | Damage]:
    """Yield every member in order; a Damage, if any, comes last.

    Cost: a few microseconds and one block of the buffer per member, independent of the sizes of the members, plus one
    look at what follows the end-of-archive mark. Memory: constant.
    """
    position = 0
    while True:
        found = _read_member(buffer, position)
        if found is None:
            found = _trailing(buffer, position)
        if not isinstance(found, Member):
            if found is not None:
                yield found
            return
        yield found
        position = found.end
