"""RoCLIP: in every K-th epoch each image is trained towards the nearest caption of a pool, not towards its own.

Source: Yang, Gao and Mirzasoleiman, NeurIPS 2023, arXiv 2303.06854, Algorithm 1.

``strict`` does what the released code does: the pool starts as noise and is refreshed in matched epochs only, the match
comes before the refresh, neighbours carry no gradient, a zero-weighted CLIP term gives the text tower a gradient of
exactly zero (so that momentum and weight decay still move it), text augmentation is drawn once.

``fixed`` mends that: the pool is filled before the first matched epoch and refreshed in every epoch, its rows are unit
vectors, a pair's own caption cannot be its neighbour, a caption that is near to every image wins none for that, two
images with one neighbour are not each other's negatives, the text tower rests in matched epochs, text augmentation is
drawn anew in every epoch.

``fixed`` has one thing more, the contest of the scan (own work, not in the paper): between the matched epochs a pair is
trained on its own caption only if that wins against most of the pool. Otherwise plain epochs plant again what matched
ones pulled out. The contest is held on a *glimpse*, a crop that more often than not does not show what was planted near
a corner: a patch that the model has learned then cannot speak for its caption. Nor is a pair that lost believed at
once when a later glimpse shows the patch: its rank share fades over some epochs (``train.verdicts``). And all captions
of one picture are judged together, by their running mean: of many captions for one picture, which is how a picture is
made to mean something else, some win by chance, are learned, and help the others to win. Their mean is steady where
single verdicts scatter, so it has to be better than theirs.

A pair that lost is not drawn together; its image and its caption stay negatives of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Final, Self

import torch
from torch import Tensor

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.seeding import derive_seed, generator
from roclip_audit.train.losses import info_nce, same_off_diagonal
from roclip_audit.train.methods.base import Embedder, Features, Loss, MethodSettings, Views
from roclip_audit.train.pool import CaptionPool
from roclip_audit.train.verdicts import Verdicts

LEAST_WINNERS: Final = 0.6
"""Share of a batch that is trained on at least: a model that has learned nothing yet lets hardly any caption win."""
LEAST_WINNERS_REPEATED: Final = 0.3
"""The same for pictures that occur several times where others do not: they have to be as good as so many of a batch."""


def pool_size(n_pairs: int, batch_size: int, share: float) -> int:
    """Return a share of the data set, rounded to whole batches (at least one), so that no batch is torn in the ring."""
    return batch_size * max(1, round(share * n_pairs / batch_size))


class RoClip:
    """Training with a caption pool and matched epochs; implements ``Method``.

    Args:
        pool: the caption pool; its ``strict`` decides the mode.
        match_every: K; epoch e is matched if K divides e. 1 matches always, 2 is the paper's.
        first: epochs before it are not matched.
        contest: largest share of the pool that may be nearer to an image than its own caption (fixed); 0 asks nothing.
        augment: strong image views and EDA.
        seed: draws the captions that fill the pool.
        n_pairs: of the data set.
    """

    name: ClassVar[str] = "roclip"

    def __init__(
        self,
        pool: CaptionPool,
        *,
        match_every: int,
        augment: bool,
        seed: int,
        n_pairs: int,
        first: int = 1,
        contest: float = 0.0,
    ) -> None:
        self._contest = contest
        self._first = first
        self.pool = pool
        self._strict = pool.strict
        self._every = match_every
        self._seed = seed
        self._n_pairs = n_pairs
        if augment:
            self._views = Views(image=("strong",), text=("eda_once" if pool.strict else "eda",))
        else:
            self._views = Views(image=("light",), text=("plain",))
        has_contest = contest > 0 and match_every > 1 and not pool.strict  # K = 1 leaves no plain epoch for it
        self._verdicts = Verdicts(n_pairs, pool.rows_PD.device) if has_contest else None

    @classmethod
    def build(cls, settings: MethodSettings) -> Self:
        """Make the method with an empty (strict: noisy) pool.

        Raises:
            ConfigError: K is below 1, the pool is no share of the data, or the run ends before its first matched epoch.
        """
        if settings.match_every < 1:
            raise ConfigError(f"match every {settings.match_every} epochs: must be at least 1")
        if not 0 < settings.pool_share <= 1:
            raise ConfigError(f"pool share {settings.pool_share:g}: must be above 0 and at most 1")
        first = 1 if settings.strict else 1 + round(settings.match_after * settings.n_epochs)
        first_matched = settings.match_every * -(-first // settings.match_every)
        if first_matched > settings.n_epochs:
            raise ConfigError(
                f"epochs {settings.n_epochs}: none of them is matched, which leaves plain CLIP; the first would be "
                f"epoch {first_matched}: more --epochs, or a smaller --match-every (it is {settings.match_every})"
                f"{'' if first == 1 else f' or --match-after (it is {settings.match_after:g})'}"
            )
        pool = CaptionPool(
            pool_size(settings.n_pairs, settings.batch_size, settings.pool_share),
            settings.dim,
            strict=settings.strict,
            generator=torch.Generator().manual_seed(derive_seed(settings.seed, "pool")),
            device=settings.device,
        )
        return cls(
            pool,
            match_every=settings.match_every,
            augment=settings.augment,
            seed=settings.seed,
            n_pairs=settings.n_pairs,
            first=first,
            contest=settings.contest,
        )

    def views(self, epoch: int) -> Views:
        """Return one view of either side, and a glimpse where there is a contest."""
        if self._verdicts is None or self.is_matched(epoch):
            return self._views
        return replace(self._views, judge="glimpse")

    def begin_epoch(self, epoch: int, embedder: Embedder) -> None:
        """Number the pictures; fill the pool with random captions before a matched epoch that would find it wanting."""
        if self._verdicts is not None and not self._verdicts.are_numbered:
            self._verdicts.number(torch.from_numpy(embedder.picture_numbers()))
        missing = len(self.pool) - self.pool.n_valid
        if self._strict or not missing or not self.is_matched(epoch):
            return
        rng = generator(self._seed, "pool", epoch)
        drawn = rng.permutation(self._n_pairs)[:missing]
        self.pool.put(embedder.texts(drawn), torch.from_numpy(drawn).to(self.pool.owner_P.device))

    def trains_text(self, epoch: int) -> bool:
        """Return False in matched epochs of the fixed mode."""
        return self._strict or not self.is_matched(epoch)

    def rate(self, epoch: int) -> float:
        """Return 1."""
        return 1.0

    def is_matched(self, epoch: int) -> bool:
        """Tell whether K divides the epoch, and the time for it has come."""
        return epoch >= self._first and epoch % self._every == 0

    def loss(self, features: Features, epoch: int) -> Loss:
        """Return the loss of a plain or a matched batch, and refresh the pool where the mode wants it."""
        (image_ND,), (text_ND,) = features.image_VND, features.text_VND
        if not self.is_matched(epoch):
            return self._plain(image_ND, text_ND, features)
        owner_N = None if self._strict else features.pair_N
        nearest_N = self.pool.nearest(image_ND, owner_N, centred=not self._strict)
        rival_ND = self.pool.rows_PD[nearest_N]  # a copy: the refresh below does not touch it
        self.pool.put(text_ND, features.pair_N)
        if self._strict:
            matched = info_nce(rival_ND, image_ND, features.scale)
            return Loss(total=matched + 0.0 * info_nce(image_ND, text_ND, features.scale), parts={"matched": matched})
        shared_NN = same_off_diagonal(nearest_N)
        matched = info_nce(rival_ND, image_ND, features.scale, shared_NN)
        return Loss(total=matched, parts={"shared_neighbours": shared_NN.any(dim=1).float().mean()})

    def _plain(self, image_ND: Tensor, text_ND: Tensor, features: Features) -> Loss:
        """Return CLIP's loss of the pairs that win the contest (fixed), or of all (strict).

        A pair that loses is not drawn together; its image and its caption are negatives of the others, as ever.
        """
        if self._strict:
            return Loss(total=info_nce(image_ND, text_ND, features.scale))
        parts, wins_N = {}, None
        if self._verdicts is not None and 2 * self.pool.n_valid >= len(self.pool):
            if features.judge_ND is None:
                raise ValueError("the contest is held on the judge's view, and there is none")
            q_N = self.pool.rank_share(features.judge_ND, text_ND, features.pair_N)
            q_N = self._verdicts.joined(q_N, features.pair_N)
            shares_2 = q_N.new_tensor([LEAST_WINNERS, LEAST_WINNERS_REPEATED])
            limits_2 = q_N.quantile(shares_2).clamp(min=self._contest)
            wins_N = q_N <= limits_2[self._verdicts.are_repeats(features.pair_N).long()]
            parts = {"winners": wins_N.float().mean(), "median_q": q_N.median()}
        self.pool.put(text_ND, features.pair_N)
        return Loss(total=info_nce(image_ND, text_ND, features.scale, trained_N=wins_N), parts=parts)

    def state(self) -> dict[str, Tensor]:
        """Return the pool and the verdicts."""
        state = {f"pool.{name}": tensor for name, tensor in self.pool.state().items()}
        if self._verdicts is not None:
            state |= {f"verdicts.{name}": tensor for name, tensor in self._verdicts.state().items()}
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over the pool and the verdicts."""
        parts: dict[str, dict[str, Tensor]] = {"pool": {}, "verdicts": {}}
        for name, tensor in state.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self.pool.restore(parts["pool"])
        if self._verdicts is not None:
            self._verdicts.restore(parts["verdicts"])
