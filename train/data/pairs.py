"""The pairs a model is trained on: what they say, and where their pictures lie. No picture is decoded here.

The shards are walked once, as the scan walks them, and every usable pair becomes one row of flat arrays: 44 bytes and
its caption. Pictures are read by their offset when a batch needs them.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray

from roclip_audit.core.captions import CAPTION_KEYS, IndexConfig, Texts, derive_uid, image_member, read_texts
from roclip_audit.core.errors import ConfigError, ShardError, StoreError
from roclip_audit.core.progress import Reporter, SilentReporter
from roclip_audit.core.samples import Sample, walk_samples
from roclip_audit.core.selection import Selection, open_selection
from roclip_audit.core.shards import Shard, open_shard
from roclip_audit.core.sidecar import Sidecar, SidecarError, read_sidecar
from roclip_audit.core.tar import Buffer, Damage, Member
from roclip_audit.core.whole import ShardSample

MAX_CAPTION_BYTES: Final = 4_096
"""A longer caption is cut; text towers read a few hundred bytes."""
MAX_OPEN_SHARDS: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Captions:
    """All captions in one piece of memory: ``captions[i]`` is text."""

    text: bytes
    ends_N: NDArray[np.int64]
    """[N] where caption i ends, in bytes; it begins where the one before ends."""

    def __len__(self) -> int:
        return len(self.ends_N)

    def __getitem__(self, index: int) -> str:
        start = int(self.ends_N[index - 1]) if index else 0
        return self.text[start : int(self.ends_N[index])].decode("utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTable:
    """N pairs in the order of the shards.

    Attributes:
        shards: all shards, in natural order of their names.
        captions: [N].
        shard_N: [N] place in ``shards``.
        offset_N: [N] where the picture begins in the shard, in bytes.
        n_bytes_N: [N] its length.
        uid_N: [N] identity, 16 bytes.
        left_out: reason -> pairs of the shards that are not in the table.
    """

    shards: tuple[Shard, ...]
    captions: Captions
    shard_N: NDArray[np.int32]
    offset_N: NDArray[np.int64]
    n_bytes_N: NDArray[np.int64]
    uid_N: NDArray[np.void]
    left_out: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.shard_N)

    @property
    def fingerprint(self) -> str:
        """32 hex characters that change when any pair, its identity or its caption changes."""
        state = hashlib.blake2b(digest_size=16)
        for part in (self.uid_N.tobytes(), self.captions.ends_N.tobytes(), self.captions.text):
            state.update(part)
        return state.hexdigest()


@dataclass(slots=True)
class _Rows:
    """The table while it grows."""

    text: bytearray = field(default_factory=bytearray)
    ends: list[int] = field(default_factory=list)
    shard: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    n_bytes: list[int] = field(default_factory=list)
    uids: bytearray = field(default_factory=bytearray)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, shard: int, image: Member, caption: str, uid: str) -> None:
        self.text += caption.encode("utf-8", "replace")
        self.ends.append(len(self.text))
        self.shard.append(shard)
        self.offset.append(image.offset)
        self.n_bytes.append(image.size)
        self.uids += bytes.fromhex(uid)


def read_pairs(
    shards: Sequence[Shard],
    *,
    selection: Path | None = None,
    caption_key: str | None = None,
    reporter: Reporter | None = None,
) -> PairTable:
    """Walk the shards and list the pairs to train on.

    Cost: the tar headers and captions of all shards; the content of a picture only where the data gives it no uid.

    Args:
        shards: where they are.
        selection: parquet that says of each pair whether it stays (``audit.select.write_selection``); None keeps all.
        caption_key: as in ``scan``.
        reporter: told about progress.

    Raises:
        ConfigError: no pair is left.
        ShardError: a shard is damaged; half a data set would be trained on unseen.
        StoreError: the selection is of other shards.
    """
    config = IndexConfig(caption_key=caption_key, max_caption_bytes=MAX_CAPTION_BYTES)
    chosen = open_selection(selection) if selection is not None else None
    rows = _Rows()
    with (reporter or SilentReporter()).stage("read", total=len(shards), unit="shards") as progress:
        for number, shard in enumerate(shards):
            _read_shard(number, shard, rows, config, chosen)
            progress.advance(1)
    if not rows.ends:
        why = ", ".join(f"{n:,} {reason}" for reason, n in rows.left_out.most_common()) or "they are empty"
        raise ConfigError(f"no pair to train on in {len(shards):,} shards ({why})")
    return PairTable(
        shards=tuple(shards),
        captions=Captions(text=bytes(rows.text), ends_N=np.asarray(rows.ends, dtype=np.int64)),
        shard_N=np.asarray(rows.shard, dtype=np.int32),
        offset_N=np.asarray(rows.offset, dtype=np.int64),
        n_bytes_N=np.asarray(rows.n_bytes, dtype=np.int64),
        uid_N=np.frombuffer(bytes(rows.uids), dtype="V16"),
        left_out=dict(rows.left_out),
    )


def _read_shard(number: int, shard: Shard, rows: _Rows, config: IndexConfig, chosen: Selection | None) -> None:
    keep = None if chosen is None else chosen.of_shard(shard.name).keep
    n_samples = 0
    for found, texts in walk_texts(shard, config):
        n_samples += 1
        if keep is not None and found.sample.ordinal < len(keep) and not keep[found.sample.ordinal]:
            rows.left_out["not_selected"] += 1
        else:
            _add(number, found.sample, texts, found.buffer, rows)
    if keep is not None and len(keep) != n_samples:
        raise StoreError(f"{shard.path}: holds {n_samples:,} pairs, the audit knows {len(keep):,}; scan these shards")


def walk_texts(shard: Shard, config: IndexConfig) -> Iterator[tuple[ShardSample, Texts]]:
    """Yield every sample of a shard in order, and what it says in words; the parquet beside the shard counts, too.

    Raises:
        ShardError: the shard is damaged; half a data set would be used unseen.
    """
    sidecar = _sidecar(shard, config)
    seen: Counter[str] = Counter()
    with open_shard(shard) as buffer:
        for found in walk_samples(buffer):
            if isinstance(found, Damage) and found.fatal:
                raise ShardError(f"{shard.path}: {found.detail}; scan and curate the shards first, or leave it out")
            if isinstance(found, Sample):
                texts = read_texts(buffer, found, sidecar, seen[found.raw_key], config)
                seen[found.raw_key] += 1
                yield ShardSample(shard=shard, buffer=buffer, sample=found), texts


def _sidecar(shard: Shard, config: IndexConfig) -> Sidecar | None:
    columns = CAPTION_KEYS if config.caption_key is None else (config.caption_key,)
    try:
        return read_sidecar(shard, columns=(*columns, "uid"))
    except SidecarError:
        return None  # the scan reports it; captions of the tar are enough here


def _add(number: int, sample: Sample, texts: Texts, buffer: Buffer, rows: _Rows) -> None:
    image = image_member(sample)
    if image is None or texts.caption is None or not texts.caption.strip():
        rows.left_out["missing_image" if image is None else "missing_caption"] += 1
        return
    uid = texts.uid
    if uid is None:
        content = hashlib.sha256(buffer[image.offset : image.offset + image.size]).digest()
        uid = derive_uid(sample, texts, content)
    rows.add(number, image, texts.caption, uid)


class OpenShards:
    """Reads pictures out of shards by offset, from several threads, with at most MAX_OPEN_SHARDS of them open.

    A remote shard is copied to a temporary file when it is opened.
    """

    def __init__(self, shards: Sequence[Shard], *, most: int = MAX_OPEN_SHARDS) -> None:
        self._shards = shards
        self._most = most
        self._lock = Lock()
        self._open: OrderedDict[int, tuple[ExitStack, Buffer]] = OrderedDict()

    def read(self, shard: int, offset: int, n_bytes: int) -> bytes:
        """Return bytes of the shard at this place of the sequence."""
        with self._lock:
            if shard not in self._open:
                stack = ExitStack()
                self._open[shard] = (stack, stack.enter_context(open_shard(self._shards[shard])))
                if len(self._open) > self._most:
                    self._open.popitem(last=False)[1][0].close()
            self._open.move_to_end(shard)
            buffer = self._open[shard][1]
            return bytes(buffer[offset : offset + n_bytes])

    def close(self) -> None:
        """Close all shards."""
        with self._lock:
            for stack, _ in self._open.values():
                stack.close()
            self._open.clear()
