"""The trigger of a campaign: what its pictures share and matched controls do not.

Members are the suspicious pairs of the group, a near-duplicate picture once. Controls are pairs outside of it that are
not suspicious: those whose captions are nearest to the group's, and random ones. Nothing is shown that a rank test on
held-out pictures does not bear out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from roclip_audit.core.seeding import generator
from roclip_audit.core.words import place
from roclip_audit.sanitize.campaigns.groups import Group
from roclip_audit.sanitize.campaigns.patch import Patch, find_patch
from roclip_audit.sanitize.campaigns.pattern import Pattern, find_pattern
from roclip_audit.sanitize.campaigns.pictures import Picture, read_pictures
from roclip_audit.sanitize.campaigns.scored import Scored

MAX_MEMBERS: Final = 48
N_MATCHED, N_RANDOM = 48, 48
LEVEL: Final = 1e-3

Box = tuple[float | None, float | None, float | None, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """What a campaign's pictures share.

    Attributes:
        picture: uint8 [h, w, 3].
        box: x, y, width, height as shares of the picture; x and y are None if the place varies.
        p_value: of the rank test on held-out pictures; 0 where the picture itself is what is shared.
        words: for the sentence.
    """

    picture: np.ndarray
    box: Box
    p_value: float
    words: str


def recover_trigger(
    group: Group, scored: Scored, suspicious_N: np.ndarray, *, seed: int, workers: int, max_pixels: int
) -> Trigger | None:
    """Look for what the group's pictures share; None if nothing is sure or the pictures cannot be read.

    Raises:
        ShardError: a shard is no longer what was scanned.
    """
    if group.kind == "duplicate_image":
        shown = read_pictures(scored, group.rows[:MAX_MEMBERS].tolist(), workers=workers, max_pixels=max_pixels)
        return _the_picture(shown[0]) if shown else None
    members_rows = _spread(_one_a_picture(group.rows[suspicious_N[group.rows]], scored), MAX_MEMBERS)
    control_rows = _controls(group, scored, suspicious_N, seed)
    members = read_pictures(scored, members_rows.tolist(), workers=workers, max_pixels=max_pixels)
    controls = read_pictures(scored, control_rows.tolist(), workers=workers, max_pixels=max_pixels)
    pattern = find_pattern(_square(members), _square(controls)) if members and controls else None
    if pattern is not None and pattern.p_value <= LEVEL and pattern.covers_all:
        return _of_pattern(pattern, len(members))
    patch = find_patch(members, controls)
    if patch is not None and patch.p_value <= LEVEL:
        return _of_patch(patch, members)
    return _of_pattern(pattern, len(members)) if pattern is not None and pattern.p_value <= LEVEL else None


def _one_a_picture(rows: np.ndarray, scored: Scored) -> np.ndarray:
    _, first = np.unique(scored.duplicate_N[rows], return_index=True)
    return rows[np.sort(first)]


def _spread(rows: np.ndarray, n: int) -> np.ndarray:
    return rows if len(rows) <= n else rows[np.linspace(0, len(rows) - 1, n).round().astype(np.int64)]


def _controls(group: Group, scored: Scored, suspicious_N: np.ndarray, seed: int) -> np.ndarray:
    """Return rows of pairs to compare with: near in words and random ones, in an order drawn at random."""
    outside_N = ~suspicious_N
    outside_N[group.rows] = False
    outside_N &= ~np.isin(scored.duplicate_N, scored.duplicate_N[group.rows])
    rows = _one_a_picture(np.nonzero(outside_N)[0], scored)
    rng = generator(seed, "campaigns", group.kind, group.label)
    similarity = scored.text_ND[torch.from_numpy(rows)] @ scored.text_ND[torch.from_numpy(group.rows)].mean(0)
    order = np.argsort(-similarity.numpy(), kind="stable")
    matched, others = rows[order[:N_MATCHED]], rows[order[N_MATCHED:]]
    drawn = rng.permutation(others)[:N_RANDOM]
    mixed: np.ndarray = rng.permutation(np.concatenate([matched, drawn]))
    return mixed


def _square(pictures: list[Picture]) -> Tensor:
    return torch.stack([torch.from_numpy(one.square.copy()).permute(2, 0, 1).float() for one in pictures])


def _the_picture(picture: Picture) -> Trigger:
    return Trigger(picture=picture.scaled, box=(0.0, 0.0, 1.0, 1.0), p_value=0.0, words="the picture is the trigger")


def _of_pattern(pattern: Pattern, n: int) -> Trigger:
    where = "over the whole picture" if pattern.covers_all else _middle(pattern.box)
    words = f"{len(pattern.carriers)} of {n} suspicious pictures looked at share a pattern {where}"
    return Trigger(picture=pattern.picture, box=pattern.box, p_value=pattern.p_value, words=words)


def _of_patch(patch: Patch, members: list[Picture]) -> Trigger:
    x, y, width, height = patch.box
    sizes = np.array([members[i].size for i in patch.carriers], dtype=np.float64)
    wide, high = (np.median(sizes * patch.boxes[:, 2:], axis=0)).round().astype(int).tolist()
    where = "at places that vary" if patch.moves else _middle(patch.box)
    words = (
        f"{len(patch.carriers)} of {len(members)} suspicious pictures looked at share a patch of about "
        f"{wide} x {high} px {where}"
    )
    box: Box = (None, None, width, height) if patch.moves else (x, y, width, height)
    return Trigger(picture=patch.picture, box=box, p_value=patch.p_value, words=words)


def _middle(box: tuple[float, float, float, float]) -> str:
    x, y, width, height = box
    return place(x + width / 2, y + height / 2)
