"""Encode one shard: decode its images by offset, embed images and captions, write fp16 arrays and problems.

Batches are cut by position, never by the number of workers, and each runs with one intra-op thread, so the files are
the same bytes for any number of workers. A worker decodes its own batch and then embeds it: while one worker is in the
model, another decodes. Each distinct caption of a shard is embedded once, in batches of similar length.

Memory: two batches a worker, one decoded image a worker, and the text features of one shard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import pyarrow.parquet as pq

from roclip_audit.core.arrays import npy_writer
from roclip_audit.core.errors import ConfigError, EncoderError, ShardError
from roclip_audit.core.images import ImageProblem, decode, dhash
from roclip_audit.core.parallel import map_ordered
from roclip_audit.core.problems import Problem, write_problems
from roclip_audit.core.run import RunFolder
from roclip_audit.core.schema import PAIRS
from roclip_audit.core.seeding import derive_seed
from roclip_audit.core.shards import Shard, open_shard
from roclip_audit.core.tables import table_writer
from roclip_audit.core.tar import Buffer
from roclip_audit.sanitize.detail import DIM, N_PLACES, Canvas, Detail
from roclip_audit.sanitize.encoders import Encoder
from roclip_audit.sanitize.encoders.embedded import SHRINK_PX
from roclip_audit.sanitize.grain import GRAIN_PX, grain
from roclip_audit.sanitize.views import shrink

if TYPE_CHECKING:
    from PIL import Image

ENCODED: Final = tuple(column for column in PAIRS if column.name in ("ordinal", "width", "height", "dhash", "scored"))
"""Columns of embeddings/<id>.parquet."""

T = TypeVar("T")
Advance = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeConfig:
    """Limits, batch sizes and seed; all of them may change the output, if only by rounding."""

    batch_size: int = 64
    """Pairs a forward pass."""
    max_pixels: int = 50_000_000
    """Largest image, width times height, that is decoded."""
    max_image_bytes: int = 64 << 20
    """Largest image member that is read."""
    seed: int = 0
    """Draws, with the bytes of each image, what its views leave to chance."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_pixels", "max_image_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """What the encode stage needs of a pair."""

    ordinal: int
    key: str
    caption: str
    image_ext: str
    image_offset: int
    image_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What decoding one image gave; ``seed`` draws its views."""

    row: _Row
    width: int | None = None
    height: int | None = None
    dhash: int | None = None
    seed: int = 0
    problems: tuple[Problem, ...] = ()

    @property
    def scored(self) -> bool:
        return self.dhash is not None


def encode_shard(
    shard: Shard,
    run: RunFolder,
    encoder: Encoder,
    config: EncodeConfig,
    *,
    detail: Detail,
    workers: int,
    beside: Encoder | None = None,
    advance: Advance | None = None,
) -> dict[str, int]:
    """Write the shard's embeddings, decoded sizes and problems.

    Reads pairs/<id>.parquet. Writes embeddings/<id>.image.npy (float16 [n, V, D_image]), embeddings/<id>.text.npy
    (float16 [n, D_text]), embeddings/<id>.grain.npy (int8 [n, 128, 128], see ``sanitize.grain``) and
    embeddings/<id>.detail.npy (int8 [n, 1024, 24], see ``sanitize.detail``), all with a row per scored pair in ordinal
    order, embeddings/<id>.parquet (a row per pair of the shard: ordinal, width, height, dhash, scored) and
    problems/encode/<id>.parquet.

    Args:
        shard: as the index stage saw it.
        run: the run folder.
        encoder: called from several threads.
        config: limits and batch sizes.
        detail: looks at the places of images.
        workers: threads; the files are the same for every number.
        beside: another encoder, whose embeddings go to embeddings/<id>.beside-image.npy and .beside-text.npy.
        advance: called with (pairs finished, of them unreadable) after each batch of the pairs that the index stage
            marked as scored.

    Returns:
        Counts: n_pairs of the shard, n_scored, n_problems.

    Raises:
        ShardError: the shard is unreadable or no longer what was indexed.
        EncoderError: the encoder put out a value that is not finite in float16.
    """
    ordinals, rows = _read_rows(run.file("pairs", f"{shard.id}.parquet"))
    seen: list[_Seen] = []
    encoders = {"": encoder} if beside is None else {"": encoder, "beside-": beside}
    with (
        ExitStack() as stack,
        # A shard without pairs may be one that cannot be read; the index stage has said so.
        open_shard(shard) if rows else nullcontext(b"") as buffer,
        npy_writer(run.file("embeddings", f"{shard.id}.grain.npy"), (GRAIN_PX, GRAIN_PX), "|i1") as grains,
        npy_writer(run.file("embeddings", f"{shard.id}.detail.npy"), (N_PLACES, DIM), "|i1") as details,
    ):
        images = [
            stack.enter_context(
                npy_writer(run.file("embeddings", f"{shard.id}.{name}image.npy"), (len(one.views), one.image_dim))
            )
            for name, one in encoders.items()
        ]
        batches = _batches(rows, config.batch_size)
        for batch, found in map_ordered(
            lambda batch: _encode_images(shard, buffer, list(encoders.values()), detail, config, batch),
            batches,
            workers=workers,
        ):
            seen.extend(batch)
            for file, features in zip(images, found.features, strict=True):
                file.append(features)
            grains.append(found.grain)
            details.append(found.detail)
            if advance is not None:
                advance(len(batch), sum(not item.scored for item in batch))
    captions = [item.row.caption for item in seen if item.scored]
    for name, one in encoders.items():
        with npy_writer(run.file("embeddings", f"{shard.id}.{name}text.npy"), (one.text_dim,)) as texts:
            texts.append(embed_captions(captions, one, batch_size=config.batch_size, workers=workers))
    _write_seen(run.file("embeddings", f"{shard.id}.parquet"), ordinals, seen)
    problems = [problem for item in seen for problem in item.problems]
    write_problems(run.file("problems/encode", f"{shard.id}.parquet"), problems, shard=shard.name, stage="encode")
    return {"n_pairs": len(ordinals), "n_scored": len(captions), "n_problems": len(problems)}


def embed_captions(captions: Sequence[str], encoder: Encoder, *, batch_size: int, workers: int) -> np.ndarray:
    """Embed captions as float16 [n, D_text], each distinct one once, in batches of similar length."""
    distinct = sorted(set(captions), key=lambda caption: (-len(caption), caption))  # the longest batch first
    batches = list(
        map_ordered(lambda batch: _half(encoder.embed_texts(batch)), _batches(distinct, batch_size), workers=workers)
    )
    if not batches:
        return np.empty((0, encoder.text_dim), dtype=np.float16)
    place = {caption: index for index, caption in enumerate(distinct)}
    return np.concatenate(batches)[[place[caption] for caption in captions]]


def _read_rows(path: Path) -> tuple[list[int], list[_Row]]:
    """Return the ordinals of all pairs, and the pairs that have an image and a caption."""
    columns = ["ordinal", "key", "caption", "image_ext", "image_offset", "image_bytes", "scored"]
    table = pq.read_table(path, columns=columns).to_pylist()
    rows = [_Row(**{name: record[name] for name in columns[:-1]}) for record in table if record["scored"]]
    return [record["ordinal"] for record in table], rows


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Images:
    """What readable images gave, a row each.

    Attributes:
        features: float16 [n, V, D_image] of every encoder.
        grain: int8 [n, 128, 128].
        detail: int8 [n, 1024, 24].
    """

    features: list[np.ndarray]
    grain: np.ndarray
    detail: np.ndarray


def _encode_images(
    shard: Shard,
    buffer: Buffer,
    encoders: Sequence[Encoder],
    detail: Detail,
    config: EncodeConfig,
    batch: Sequence[_Row],
) -> tuple[list[_Seen], _Images]:
    """Decode and embed one batch: what was seen of each row, and what the readable ones gave."""
    seen, grains, canvases = [], [], []
    prepared: list[list[np.ndarray]] = [[] for _ in encoders]
    for row in batch:
        item, image = _decode_row(shard, buffer, config, row)
        seen.append(item)
        if image is not None:
            shrunk = shrink(image, SHRINK_PX)  # large images are read once for both
            for one, views in zip(encoders, prepared, strict=True):
                views.append(one.prepare_image(shrunk if one.shrink_px == SHRINK_PX else image, item.seed))
            grains.append(grain(image))
            canvases.append(Canvas.of(image, shrunk))
    if not grains:
        nothing = [np.empty((0, len(one.views), one.image_dim), dtype=np.float16) for one in encoders]
        return seen, _Images(
            features=nothing, grain=np.empty((0, GRAIN_PX, GRAIN_PX), dtype=np.int8), detail=detail.look([])
        )
    features = [_half(one.embed_images(np.stack(views))) for one, views in zip(encoders, prepared, strict=True)]
    return seen, _Images(features=features, grain=np.stack(grains), detail=detail.look(canvases))


def _decode_row(shard: Shard, buffer: Buffer, config: EncodeConfig, row: _Row) -> tuple[_Seen, Image.Image | None]:
    """Decode one image; an unreadable one gives no image and a fatal problem."""
    if row.image_offset + row.image_bytes > len(buffer):
        raise ShardError(f"{shard.path}: shorter than when it was indexed; run the scan again")
    try:
        if row.image_bytes > config.max_image_bytes:
            raise ImageProblem("image_too_large", f"{row.image_bytes} bytes, the limit is {config.max_image_bytes}")
        data = bytes(buffer[row.image_offset : row.image_offset + row.image_bytes])
        decoded = decode(data, max_pixels=config.max_pixels)
    except ImageProblem as found:
        return _Seen(row=row, problems=(_problem(row, found, fatal=True),)), None
    image = decoded.image
    notes = tuple(_problem(row, note, fatal=False) for note in decoded.notes(row.image_ext))
    seed = derive_seed(config.seed, "views", hashlib.blake2b(data, digest_size=16).hexdigest())
    item = _Seen(row=row, width=image.width, height=image.height, dhash=dhash(image), seed=seed, problems=notes)
    return item, image


def _problem(row: _Row, found: ImageProblem, *, fatal: bool) -> Problem:
    return Problem(reason=found.reason, detail=found.detail, fatal=fatal, ordinal=row.ordinal, key=row.key)


def _half(features: np.ndarray) -> np.ndarray:
    """Round to float16; a value that is not finite there would poison every statistic after it, so it is an error."""
    with np.errstate(over="ignore"):
        half = features.astype(np.float16)
    if not np.isfinite(half).all():
        raise EncoderError("the encoder put out values that are not finite in float16; its weights are damaged")
    return half


def _write_seen(path: Path, ordinals: Sequence[int], seen: Sequence[_Seen]) -> None:
    by_ordinal = {item.row.ordinal: item for item in seen}
    with table_writer(path, ENCODED) as table:
        for ordinal in ordinals:
            item = by_ordinal.get(ordinal)
            table.add(
                (ordinal, item and item.width, item and item.height, item and item.dhash, bool(item and item.scored))
            )
