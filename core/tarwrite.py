"""Write samples into numbered tars by copying their blocks: headers, data and padding stay as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from roclip_audit.core.samples import Sample
from roclip_audit.core.tar import Buffer, Member

RECORD: Final = 10_240
"""A tar ends with at least two zero blocks and is padded to this, as every tar program does."""
COPY_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenTar:
    """One finished tar."""

    name: str
    n_samples: int
    n_bytes: int
    sha256: str


@dataclass(slots=True)
class TarSeries:
    """Writes ``folder/<prefix>00000.tar``, ``...00001.tar`` and so on, each with at most ``samples_per_tar`` samples.

    Tars are streamed; memory is one copy buffer. Close it, or use it in a ``with``.
    """

    folder: Path
    samples_per_tar: int
    prefix: str = ""
    width: int = 5
    written: list[WrittenTar] = field(default_factory=list)
    _file: IO[bytes] | None = None
    _sha256: Any = None  # hashlib's objects have no public type
    _n_samples: int = 0
    _n_bytes: int = 0
    _last: Sample | None = None

    def __enter__(self) -> TarSeries:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Finish the last tar."""
        self.close()

    @property
    def name(self) -> str:
        """File name of the tar that is being written, or would be next."""
        return f"{self.prefix}{len(self.written):0{self.width}d}.tar"

    def add_sample(self, buffer: Buffer, sample: Sample, *, follows_last: bool) -> str:
        """Copy a sample's members and return the name of the tar they are in.

        Samples with one key that were apart in their shard must not touch here: readers would take them for one sample,
        and a pair could appear that nobody has scored. Such a sample begins a new tar. Those that touched before, and
        were told apart by a repeated extension, still are.

        Args:
            buffer: the shard that holds the sample.
            sample: the sample.
            follows_last: the sample added before this one is the one before it in its shard.
        """
        if self._n_samples >= self.samples_per_tar or self._would_blur(sample, follows_last=follows_last):
            self.close()
        self._last = sample
        self._copy(buffer, sample.members.values())
        self._n_samples += 1
        return self.name

    def _would_blur(self, sample: Sample, *, follows_last: bool) -> bool:
        if self._last is None or sample.raw_key != self._last.raw_key:
            return False
        return not (follows_last and next(iter(sample.members)) in self._last.members)

    def add_member(self, buffer: Buffer, member: Member) -> str:
        """Copy one member that belongs to no sample and return the name of the tar it is in."""
        if self._n_samples >= self.samples_per_tar:
            self.close()
        self._copy(buffer, (member,))
        self._n_samples += 1
        return self.name

    def close(self) -> None:
        """Finish the tar that is being written, if any; the next sample begins another."""
        if self._file is None:
            return
        n_zeros = RECORD - self._n_bytes % RECORD
        self._write(bytes(n_zeros if n_zeros >= 1024 else n_zeros + RECORD))
        self._file.close()
        self.written.append(
            WrittenTar(
                name=self.name, n_samples=self._n_samples, n_bytes=self._n_bytes, sha256=self._sha256.hexdigest()
            )
        )
        self._file, self._last = None, None
        self._n_samples = self._n_bytes = 0

    def _copy(self, buffer: Buffer, members: Iterable[Member]) -> None:
        if self._file is None:
            self._file = (self.folder / self.name).open("xb")
            self._sha256 = hashlib.sha256()
        for start, end in _runs(members):
            available = min(end, len(buffer))  # the padding of a shard's last member may be missing
            for position in range(start, available, COPY_BYTES):
                self._write(buffer[position : min(position + COPY_BYTES, available)])
            self._write(bytes(end - available))

    def _write(self, content: bytes) -> None:
        if self._file is not None:
            self._file.write(content)
            self._sha256.update(content)
            self._n_bytes += len(content)


def _runs(members: Iterable[Member]) -> Iterator[tuple[int, int]]:
    """Join members that touch into (start, end) runs."""
    start = end = -1
    for member in members:
        if member.start != end:
            if end >= 0:
                yield start, end
            start = member.start
        end = member.end
    if end >= 0:
        yield start, end
