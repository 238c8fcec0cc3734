"""An aligned space: image and caption vectors that can be compared, and the contest held in it.

A joint encoder gives one space of one fold. The embedded encoder gives one space per alignment pass, each of several
folds whose vectors were made by different heads: a pair only ever meets candidates of its own fold, so that its own
caption and its rivals are equally new to the heads.

Shape legend: N pairs, B pairs of one fold, V views, D space, R readings (observed or re-paired captions), C candidates,
X candidates to leave out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from roclip_audit.core.groups import one_of_each
from roclip_audit.core.ranks import evenly_spaced
from roclip_audit.sanitize.contest import ContestConfig, count_nearer, count_nearer_both_ways


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Unit vectors of every pair.

    Attributes:
        name: what the space is called in progress lines.
        image_NVD: float32 [N, V, D].
        text_ND: float32 [N, D].
        fold_N: int64 [N]; only pairs of one fold can be compared.
    """

    name: str
    image_NVD: Tensor
    text_ND: Tensor
    fold_N: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """Rank shares q: the share of candidates that were nearer; 0 = best, uniform if caption and image are unrelated.

    Attributes:
        caption_q_NVR: float64 [N, V, 1 + R], image to captions: distinct captions nearer to the image than the
            reading's (reading 0 is the observed caption, the others are controls).
        image_q_NVR: float64 [N, V, 1 + R], caption to images: images nearer to the reading's caption than the image.
        n_nearer_NV: int64 [N, V], the captions counted for the observed pairing.
        n_captions_N: int64 [N], distinct captions that competed with it.
    """

    caption_q_NVR: Tensor
    image_q_NVR: Tensor
    n_nearer_NV: Tensor
    n_captions_N: Tensor


def contest(
    space: Space,
    caption_N: Tensor,
    group_N: Tensor,
    control_NR: Tensor,
    config: ContestConfig,
    *,
    workers: int = 1,
    advance: Callable[[int], None] = lambda _: None,
) -> Ranks:
    """Rank every pair's caption among the captions of its fold, and its image among the images, in every view.

    Repeated captions count once, near-duplicate images count once, and neither competes with itself. The observed
    pairings are ranked exactly among all candidates of the fold (up to ``max_candidates``), the controls among
    ``max_control_candidates`` of them: they are a random sample anyway, and most of the cost.

    Args:
        space: see Space.
        caption_N: int64 [N], equal for equal captions.
        group_N: int64 [N], equal for near-duplicate images.
        control_NR: int64 [N, R], rows of the pairs whose captions are re-paired with the image; of the same fold,
            another caption and another group.
        config: limits.
        workers: threads; the result is the same for every value.
        advance: called with the number of pairs finished in a view.
    """
    n, n_views = space.image_NVD.shape[:2]
    share_NVR = torch.zeros(n, n_views, 1 + control_NR.shape[1], dtype=torch.float64)
    ranks = Ranks(
        caption_q_NVR=share_NVR,
        image_q_NVR=share_NVR.clone(),
        n_nearer_NV=torch.zeros(n, n_views, dtype=torch.int64),
        n_captions_N=torch.zeros(n, dtype=torch.int64),
    )
    for fold in range(int(space.fold_N.max()) + 1 if n else 0):
        rows = torch.nonzero(space.fold_N == fold)[:, 0]
        if not len(rows):
            continue
        for most, readings, observed in (
            (config.max_candidates, rows[:, None], True),
            (config.max_control_candidates, control_NR[rows], False),
        ):
            texts = _Candidates.of(rows, caption_N, most)
            images = _Candidates.of(rows, group_N, most)
            _rank_fold(space, rows, readings, texts, images, ranks, observed=observed, workers=workers)
        advance(len(rows))
    return ranks


def _rank_fold(
    space: Space,
    rows: Tensor,
    reading_BR: Tensor,
    texts: _Candidates,
    images: _Candidates,
    ranks: Ranks,
    *,
    observed: bool,
    workers: int,
) -> None:
    """Fill in the shares of one fold for the observed captions (``reading_BR`` is ``rows``) or for controls."""
    columns = slice(0, 1) if observed else slice(1, None)
    # Neither the reading's own partner competes nor, for a control, the true one: the image's caption and group.
    skip_texts = texts.place(torch.stack([reading_BR, rows[:, None].expand_as(reading_BR)], 2))
    skip_images = images.place(torch.stack([rows[:, None].expand_as(reading_BR), reading_BR], 2))
    place_in_fold = torch.empty(len(space.fold_N), dtype=torch.int64)
    place_in_fold[rows] = torch.arange(len(rows))
    for view in range(space.image_NVD.shape[1]):
        image_BD = space.image_NVD[rows, view]
        own_BR = torch.stack([(image_BD * space.text_ND[column]).sum(1) for column in reading_BR.T], 1)
        if observed:
            texts_B, images_B = count_nearer_both_ways(
                image_BD,
                space.text_ND[rows],
                own_BR[:, 0],
                (place_in_fold[images.rows], place_in_fold[texts.rows]),
                (skip_images[:, 0, 0], skip_texts[:, 0, 0]),
                workers=workers,
            )
            nearer_BR, back_BR = texts_B[:, None], images_B[:, None]
            ranks.n_nearer_NV[rows, view] = texts_B
            ranks.n_captions_N[rows] = _n_competing(skip_texts, len(texts.rows))[:, 0]
        else:
            candidate_CD = space.image_NVD[images.rows, view]
            nearer_BR = count_nearer(image_BD, space.text_ND[texts.rows], own_BR, skip_texts, workers=workers)
            back_BR = torch.cat(
                [
                    count_nearer(
                        space.text_ND[column],
                        candidate_CD,
                        own_BR[:, reading : reading + 1],
                        skip_images[:, reading : reading + 1],
                        workers=workers,
                    )
                    for reading, column in enumerate(reading_BR.T)
                ],
                1,
            )
        ranks.caption_q_NVR[rows, view, columns] = _share(nearer_BR, skip_texts, len(texts.rows))
        ranks.image_q_NVR[rows, view, columns] = _share(back_BR, skip_images, len(images.rows))


def _n_competing(skip_BRX: Tensor, n_candidates: int) -> Tensor:
    """Count the candidates that compete with each reading."""
    one, other = skip_BRX[..., 0], skip_BRX[..., 1]
    n_skipped: Tensor = (one >= 0).long() + ((other >= 0) & (other != one)).long()
    return n_candidates - n_skipped


def _share(nearer_BR: Tensor, skip_BRX: Tensor, n_candidates: int) -> Tensor:
    return nearer_BR.double() / _n_competing(skip_BRX, n_candidates).clamp_min(1)


@dataclass(frozen=True, slots=True)
class _Candidates:
    """One row per number (caption, or group of images) that occurs in a fold."""

    rows: Tensor
    place_of_number: Tensor
    number_N: Tensor

    @classmethod
    def of(cls, rows: Tensor, number_N: Tensor, most: int) -> _Candidates:
        first = one_of_each(rows, number_N)
        first = first[evenly_spaced(len(first), most)]
        place = torch.full((int(number_N.max()) + 1,), -1, dtype=torch.int64)
        place[number_N[first]] = torch.arange(len(first))
        return cls(first, place, number_N)

    def place(self, rows: Tensor) -> Tensor:
        """Return where the number of each row stands among the candidates, -1 if it does not."""
        return self.place_of_number[self.number_N[rows]]
