"""What a finished scan says about every pair, beside the truth of what was planted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from roclip_audit.audit.manifest import Manifest, read_manifest
from roclip_audit.core.errors import ConfigError, StoreError
from roclip_audit.core.run import RunFolder
from roclip_audit.core.schema import EVIDENCE

CONSISTENT: Final = frozenset({"label_consistent", "natural"})
"""Attacks whose captions fit their pictures: planted, but not mismatched."""

NOT_RANKINGS: Final = frozenset(
    {
        "fdr",
        "p_value",
        "cosine",
        "trained_cosine",
        "win_probability",
        "win_probability_64",
        "win_probability_1024",
        "wins",
        "never_wins_probability",
        "patch_x",
        "patch_y",
    }
)
"""Columns of evidence that fall with suspicion, order the pairs as another one does, or say where something lies."""

FALLING: Final = frozenset({"trait_p"})
"""Columns that fall with suspicion and say something of their own: measured with the sign turned."""

OURS: Final = tuple(column.name for column in EVIDENCE if column.type == "DOUBLE" and column.name not in NOT_RANKINGS)
"""Columns of evidence that are measured as detectors."""

OF_TWO_ENCODERS: Final = ("q_beside", "q_caption_beside")
"""Those that a scan with one encoder has no values of."""

_PROMISES: Final = ("suspicion", "fdr")
_GEOMETRY: Final = ("x", "y", "width", "height")
_TRUTH: Final = ("uid", "attack", "target", "image_shard", "image_key", *_GEOMETRY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The scored pairs of a run with their truth.

    Attributes:
        pairs: one row a pair: uid, attack (null if left alone), part (what of the attack belongs together: the word
            that it is after, else the picture that several of its pairs show, else empty), suspicion, fdr, box (x, y,
            width, height of the trigger as shares of the image; null if none was stamped) and one column per detector,
            higher = more suspicious.
        detectors: names of those columns, ours first.
        peers: those of them that are peers.
        manifest: of the scan.
    """

    pairs: pl.DataFrame
    detectors: tuple[str, ...]
    peers: frozenset[str]
    manifest: Manifest

    @property
    def attacks(self) -> list[str]:
        """Names of the planted attacks, sorted."""
        return sorted(self.pairs["attack"].drop_nulls().unique().to_list())

    def of(self, attack: str | None) -> pl.DataFrame:
        """Return the pairs of an attack, or those left alone."""
        column = pl.col("attack")
        return self.pairs.filter(column.is_null() if attack is None else column == attack)

    def mismatched(self) -> pl.Series:
        """Tell of every pair whether an attack gave it a caption that does not fit: bool [N]."""
        return self.pairs["attack"].is_not_null() & ~self.pairs["attack"].is_in(sorted(CONSISTENT))


def load_scores(run: RunFolder, truth: Path, detectors: Sequence[str] = ()) -> Scored:
    """Join evidence, peers' scores and truth by uid.

    Args:
        run: folder of a finished scan; ``peers/`` in it is read if it is there.
        truth: ``truth.parquet`` of the planting.
        detectors: the ones to read; by default all of ``OURS`` that the run has values of, and all peers.

    Raises:
        StoreError: a file is missing or damaged, or scan and truth are about different pairs.
        ConfigError: no such detector in this run.
    """
    manifest = read_manifest(run)
    evidence = _read_shards(run, manifest, "evidence")
    peers = _read_shards(run, manifest, "peers") if (run.root / "peers").exists() else evidence.select("uid")
    planted = _read(truth).select(*_TRUTH)
    pairs = evidence.join(planted.select("uid", "attack", part=_part()), on="uid")
    if len(pairs) != len(evidence):
        raise StoreError(f"{truth}: not the truth of {run.root}, which holds other pairs")
    pairs = pairs.join(peers, on="uid", how="left").join(_boxes(run, manifest, planted), on="uid", how="left")
    their_names = [name for name in peers.columns if name != "uid"]
    ours = [name for name in OURS if name in evidence.columns and evidence[name].null_count() < len(evidence)]
    wanted = list(detectors) or [*ours, *their_names]
    if missing := [name for name in wanted if name not in (*evidence.columns, *their_names)]:
        raise ConfigError(f"no detector {', '.join(missing)} in {run.root}; there are {', '.join(ours)}")
    columns = [_filled(pairs[name].cast(pl.Float64) * (-1 if name in FALLING else 1), name) for name in wanted]
    promised = [pairs[name].alias(f"promised_{name}") for name in _PROMISES]
    return Scored(
        pairs=pl.DataFrame([*pairs.select("uid", "attack", "part", "box"), *promised, *columns]),
        detectors=tuple(wanted),
        peers=frozenset(their_names),
        manifest=manifest,
    )


def _part() -> pl.Expr:
    """Say what of its attack a pair belongs to; text, over rows of the truth."""
    picture = pl.concat_str(pl.col("image_shard").fill_null(""), pl.col("image_key"), separator="/")
    is_repeated = pl.len().over("attack", "image_shard", "image_key") > 1
    return pl.coalesce("target", pl.when(is_repeated).then(picture), pl.lit(""))


def _filled(score: pl.Series, name: str) -> pl.Series:
    """Give pairs that a detector says nothing about its lowest score."""
    finite = score.is_finite().fill_null(value=False)
    if not finite.any():
        raise StoreError(f"detector {name} has no finite score")
    low = float(np.asarray(score.filter(finite)).min())
    values = np.where(finite.to_numpy(), score.fill_null(low).to_numpy(), low)
    return pl.Series(name, values)


def _boxes(run: RunFolder, manifest: Manifest, planted: pl.DataFrame) -> pl.DataFrame:
    """Return uid and box: where the trigger lies, as shares of the image as it was decoded."""
    uids = _read_shards(run, manifest, "uids", ("ordinal", "uid"))
    sizes = _read_shards(run, manifest, "embeddings", ("ordinal", "width", "height"))
    image = uids.join(sizes, on=["shard_number", "ordinal"]).select("uid", image_width="width", image_height="height")
    stamped = planted.filter(pl.col("x").is_not_null()).join(image, on="uid")
    return stamped.select(
        "uid",
        box=pl.concat_list(
            pl.col("x") / pl.col("image_width"),
            pl.col("y") / pl.col("image_height"),
            pl.col("width") / pl.col("image_width"),
            pl.col("height") / pl.col("image_height"),
        ),
    )


def _read_shards(run: RunFolder, manifest: Manifest, stage: str, columns: Sequence[str] = ()) -> pl.DataFrame:
    """Read a stage's files of all shards that have one; with ``columns``, the number of the shard as well."""
    tables = []
    for number, shard in enumerate(manifest.shards):
        path = run.root / stage / f"{shard.id}.parquet"
        if shard.n_pairs and path.exists():
            table = _read(path)
            tables.append(table.select(*columns, shard_number=pl.lit(number)) if columns else table)
    if not tables:
        raise StoreError(f"{run.root / stage}: no file of any shard; scan again")
    return pl.concat(tables)


def _read(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StoreError(f"{path}: cannot be read ({error})") from error
