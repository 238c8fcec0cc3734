"""The results of a scan in a notebook: polars frames, NumPy arrays, PIL images.

    from roclip_audit.audit import open_audit

    audit = open_audit("audit/")
    audit.suspicion(where="fdr <= 0.1", columns=["uid", "caption", "rival_caption"], limit=20)
    audit.image("3f2a91")

Everything is read-only. The database is opened for each question and closed after it, so that a notebook that stays
open keeps no scan, review or curation waiting. Text is as it was scanned: an attacker chose it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from PIL import Image

from roclip_audit.audit.embeddings import Kind, Space, open_vectors
from roclip_audit.audit.export.selected import LISTED, checked, condition
from roclip_audit.audit.pictures import NO_IMAGE, Picture, locate_pictures, read_pictures
from roclip_audit.audit.query import clear_errors, run_query
from roclip_audit.audit.relations import SUSPICION
from roclip_audit.audit.show import find_pair
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.errors import ConfigError, ShardError, StoreError
from roclip_audit.core.run import RunFolder

__all__ = ["Audit", "open_audit"]

_NAMES = tuple(column.name for column in SUSPICION)


def open_audit(folder: str | Path = "audit") -> Audit:
    """Return the results of the scan in a run folder.

    Args:
        folder: the run folder, ``scan --out``.

    Raises:
        StoreError: there is no database in it.
    """
    run = RunFolder(Path(folder))
    if not run.database.is_file():
        raise StoreError(f"{run.database}: no database here; run `roclip-audit scan SHARDS --out {run.root}` first")
    return Audit(run)


class Audit:
    """The results of one scan; made by ``open_audit``.

    May be used in a ``with`` statement, after which it answers no more; nothing has to be closed.

    All methods raise StoreLockedError while a scan writes the database, and StoreError if it is damaged.
    """

    __slots__ = ("_closed", "_run")

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"open_audit({str(self._run.root)!r})"

    def close(self) -> None:
        """Answer no more."""
        self._closed = True

    def sql(self, query: str) -> pl.DataFrame:
        """Return the answer to one SQL statement; docs/schema.md explains tables, views and columns.

        It sees nothing outside the database and changes nothing. The whole answer is held in memory.

        Args:
            query: one SELECT, WITH, FROM, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN statement.

        Raises:
            ConfigError: the statement is refused or wrong.
        """
        with run_query(self._open(), query) as result:
            schema, batches = result.arrow()
            table = pa.Table.from_batches(batches, schema=schema)
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        return frame

    def suspicion(
        self, where: str | None = None, *, columns: Sequence[str] | None = None, limit: int | None = None
    ) -> pl.DataFrame:
        """Return scored pairs with what is known about them, the most risky first.

        Args:
            where: a condition over the columns, as in ``curate --where``; all pairs without it.
            columns: which columns, in order; all without it.
            limit: most rows.

        Raises:
            ConfigError: the condition is none, or a column does not exist.
        """
        names = _NAMES if columns is None else tuple(columns)
        if unknown := [name for name in names if name not in _NAMES]:
            raise ConfigError(f"no column {', '.join(map(repr, unknown))} in suspicion; there are {', '.join(_NAMES)}")
        if limit is not None and limit < 0:
            raise ConfigError(f"limit {limit}: must not be negative")
        if where is not None:
            checked(self._open(), where)
        chosen = ", ".join(f'"{name}"' for name in names) or "uid"
        most = "" if limit is None else f"limit {int(limit)}"
        return self.sql(f"select {chosen} from suspicion where {condition(where)} {LISTED} {most}")  # noqa: S608

    @property
    def evidence(self) -> pl.DataFrame:
        """The measurements of every scored pair; higher = more suspicious."""
        return self.sql("from evidence")

    @property
    def campaigns(self) -> pl.DataFrame:
        """Groups of suspicious pairs that belong together, the most significant first."""
        return self.sql("from campaigns order by campaign")

    @property
    def problems(self) -> pl.DataFrame:
        """Everything that was wrong with a pair or a shard."""
        return self.sql("from problems")

    def embeddings(
        self, uids: Sequence[str], *, kind: Kind = "image", space: Space = "encoder"
    ) -> npt.NDArray[np.float32]:
        """Return the vectors of some pairs.

        Args:
            uids: whole uids of scored pairs.
            kind: image (the whole view) or text.
            space: ``encoder``, where images compare with images and captions with captions; or ``aligned``, where
                images compare with captions, but only within one fold (column ``fold`` of suspicion).

        Returns:
            float32 [len(uids), D] of unit length, rows in the order of ``uids``.

        Raises:
            ConfigError: there is no such pair, or it has no evidence, or no such kind or space.
            StoreLockedError: a scan is writing here.
        """
        if kind not in ("image", "text") or space not in ("encoder", "aligned"):
            raise ConfigError(f"kind {kind!r}, space {space!r}: use image or text, encoder or aligned")
        run = self._open()
        with open_vectors(run, space) as vectors:
            with open_readonly(run) as connection, clear_errors(run.database):
                found = dict(connection.execute(_ROWS, {"uids": list(uids)}).fetchall())
                n_scored = connection.execute("select count(*) from store.scored").fetchall()[0][0]
            if n_scored != len(vectors):
                raise StoreError(f"{run.root}: arrays of another scan than the database; run the same scan again")
            if missing := [uid for uid in uids if uid not in found]:
                raise ConfigError(f"{missing[0]}: no scored pair has this uid ({len(missing):,} like it)")
            return vectors.rows(kind, np.array([found[uid] for uid in uids], dtype=np.int64))

    def image(self, uid: str) -> Image.Image:
        """Return the picture of a pair, read out of its shard and decoded safely; RGB, upright.

        The shards must lie where they were scanned.

        Args:
            uid: a uid, the beginning of one (four characters at least), or SHARD/KEY.

        Raises:
            ConfigError: no pair is meant, or several.
            ShardError: the shard is gone or changed, or the image cannot be decoded.
        """
        run = self._open()
        with open_readonly(run) as connection, clear_errors(run.database):
            whole = find_pair(connection, uid)
            places = locate_pictures(connection, [whole])
        picture = dict(read_pictures(places)).get(whole, Picture(image=None, note=NO_IMAGE))
        if picture.image is None:
            raise ShardError(f"{whole}: {picture.note}")
        return picture.image

    def _open(self) -> RunFolder:
        if self._closed:
            raise ConfigError(f"{self!r} was closed; open it again")
        return self._run


_ROWS = """
    select uid, row from (select uid, row_number() over (order by pair) - 1 as row from store.scored)
    where uid in (select unnest($uids))
"""
