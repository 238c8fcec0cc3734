"""The pairs and campaigns that the report shows one by one, with small pictures of them inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb

from roclip_audit.audit.pictures import NO_IMAGE, jpeg, locate_pictures, read_pictures, shrunk
from roclip_audit.audit.report.facts import rows
from roclip_audit.audit.why import Measured, why
from roclip_audit.core.images import ImageProblem, decode_image
from roclip_audit.core.run import RunFolder

LARGE_PX: Final = 360
LARGE_BYTES: Final = 42_000
SMALL_PX: Final = 160
SMALL_BYTES: Final = 9_000
MOST_CAMPAIGNS: Final = 12
PER_CAMPAIGN: Final = 6
TRIGGER_PX: Final = 256
MAX_TRIGGER_FILE: Final = 8 << 20
NO_TRIGGER: Final = "picture of the trait not found"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A picture inside the page: a data URI of bytes that we encoded, or the reason why there is none."""

    uri: str | None
    note: str
    width: int = 0
    height: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One pair of the gallery; texts are as scanned."""

    uid: str
    shard: str
    key: str
    caption: str | None
    rival_caption: str | None
    rival_wins: bool
    suspicion: float
    fdr: float
    risk_reason: str
    decision: str | None
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A suspicious pair of a campaign."""

    uid: str
    caption: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """A group of suspicious pairs that belong together. ``trigger_box``: x, y, width, height as shares of the image."""

    campaign: int
    kind: str
    label: str
    sentence: str
    n_pairs: int
    n_suspicious: int
    share: float
    base_rate: float
    p_corrected: float
    trigger_png: str | None
    trigger_box: tuple[float, float, float, float] | None
    samples: tuple[Sample, ...]


_CARDS = """
    with chosen as materialized (
        from store.scored order by risk desc, suspicion desc, uid limit $n
    ), near as (
        select pair, count(*) as n_neighbours from store.neighbours
        where kind = 'image' and pair in (select pair from chosen) group by pair
    ), groups as (
        select m.uid, list(c.label order by c.campaign) as campaigns
        from campaign_pairs m join campaigns c using (campaign)
        where m.suspicious and m.uid in (select uid from chosen) group by m.uid
    )
    select chosen.* replace (d.verdict as decision), coalesce(n_neighbours, 0) as n_neighbours,
        coalesce(campaigns, []) as campaigns
    from chosen left join near using (pair) left join groups using (uid) left join decisions d using (uid)
    order by risk desc, suspicion desc, uid
"""
_SAME = (
    "risk_reason", "q", "q_caption", "q_beside", "q_caption_beside", "worst_view", "caption_disagreement",
    "image_disagreement", "trait_p", "texture", "patch", "patch_x", "patch_y", "stamp_kind", "n_stamp", "anomaly",
    "n_duplicates", "n_duplicate_captions", "n_same", "n_conflicts", "n_versions", "n_caption_repeats", "n_neighbours",
)  # fmt: skip


def read_cards(connection: duckdb.DuckDBPyConnection, n: int) -> tuple[Card, ...]:
    """Read the n pairs that deserve a look most, in the default order."""
    return tuple(_card(row) for row in rows(connection, _CARDS, {"n": n}))


def _card(row: dict[str, Any]) -> Card:
    whole_q = row["q_by_view"][0] if row["q_by_view"] else row["q"]
    measured = Measured(**{name: row[name] for name in _SAME}, whole_q=whole_q, campaigns=tuple(row["campaigns"]))
    same = ("uid", "shard", "key", "caption", "rival_caption", "suspicion", "fdr", "risk_reason", "decision")
    return Card(**{name: row[name] for name in same}, rival_wins=(row["rival_margin"] or 0.0) > 0, why=why(measured))


_MEMBERS = """
    select m.campaign, s.uid, s.caption from campaign_pairs m join store.scored s using (uid)
    where m.suspicious and m.campaign in (select unnest($campaigns))
    qualify row_number() over (partition by m.campaign order by s.risk desc, s.suspicion desc, s.uid) <= $n
    order by m.campaign, s.risk desc, s.suspicion desc, s.uid
"""


def read_campaigns(connection: duckdb.DuckDBPyConnection) -> tuple[tuple[Campaign, ...], int]:
    """Read the most significant campaigns with some of their pairs, and how many campaigns there are."""
    found = rows(connection, f"from campaigns order by campaign limit {MOST_CAMPAIGNS}")
    numbers = [row["campaign"] for row in found]
    members: dict[int, list[Sample]] = {number: [] for number in numbers}
    for row in rows(connection, _MEMBERS, {"campaigns": numbers, "n": PER_CAMPAIGN}):
        members[row["campaign"]].append(Sample(uid=row["uid"], caption=row["caption"]))
    (n_all,) = connection.execute("select count(*) from campaigns").fetchall()[0]
    return tuple(_campaign(row, members[row["campaign"]]) for row in found), n_all


def _campaign(row: dict[str, Any], samples: Sequence[Sample]) -> Campaign:
    box = tuple(row[f"trigger_{side}"] for side in ("x", "y", "width", "height"))
    same = ("campaign", "kind", "label", "sentence", "n_pairs", "n_suspicious", "share", "base_rate", "p_corrected")
    return Campaign(
        **{name: row[name] for name in same},
        trigger_png=row["trigger_png"],
        trigger_box=None if None in box else box,
        samples=tuple(samples),
    )


def read_images(
    connection: duckdb.DuckDBPyConnection, large: Iterable[str], small: Iterable[str]
) -> tuple[dict[str, Image], dict[str, Image]]:
    """Read the pictures of pairs, by uid, in the two sizes that the page has; every shard is opened once.

    Args:
        connection: to the run's database.
        large: uids whose picture is shown large.
        small: uids whose picture is shown small; may overlap.
    """
    wanted_large, wanted_small = dict.fromkeys(large), dict.fromkeys(small)
    missing = Image(uri=None, note=NO_IMAGE)
    found_large, found_small = dict.fromkeys(wanted_large, missing), dict.fromkeys(wanted_small, missing)
    places = locate_pictures(connection, list(wanted_large | wanted_small))
    for uid, picture in read_pictures(places, edge_px=LARGE_PX):
        if picture.image is None:
            absent = Image(uri=None, note=picture.note)
            found_large |= {uid: absent} if uid in wanted_large else {}
            found_small |= {uid: absent} if uid in wanted_small else {}
            continue
        if uid in wanted_large:
            found_large[uid] = _embedded(jpeg(picture.image, max_bytes=LARGE_BYTES), picture.image.size)
        if uid in wanted_small:
            image = shrunk(picture.image, SMALL_PX)
            found_small[uid] = _embedded(jpeg(image, max_bytes=SMALL_BYTES), image.size)
    return found_large, found_small


def _embedded(data: bytes, size: tuple[int, int], kind: str = "jpeg") -> Image:
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return Image(uri=uri, note="", width=size[0], height=size[1])


def read_trigger(run: RunFolder, name: str) -> Image:
    """Read a campaign's trigger out of the run folder and encode it anew.

    Args:
        run: the run folder.
        name: relative to it; a file outside of it is not read.
    """
    path = run.root / name
    try:
        if not path.resolve().is_relative_to(run.root.resolve()) or path.stat().st_size > MAX_TRIGGER_FILE:
            return Image(uri=None, note=NO_TRIGGER)
        return _trigger(path)
    except (OSError, ValueError):
        return Image(uri=None, note=NO_TRIGGER)
    except ImageProblem as problem:
        return Image(uri=None, note=problem.reason)


def _trigger(path: Path) -> Image:
    image = shrunk(decode_image(path.read_bytes(), 1 << 22), TRIGGER_PX)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return _embedded(buffer.getvalue(), image.size, "png")
