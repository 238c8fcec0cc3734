"""SafeCLIP: train across the modalities only on pairs whose image and caption already agree.

    epochs 1 .. W       warm-up: each modality alone, view 2 towards the neighbour of view 1 in a queue
    epoch  W + 1        CLIP's loss on all pairs, at a hundredth of the learning rate
    epochs W + 2 .. E   CLIP's loss on the safe pairs, each modality alone on the risky ones

Before each of the last epochs all pairs are scored by the cosine of their un-augmented features. The first split keeps
pairs that a mixture of two normal distributions assigns to the higher one with more than 0.9; from then on the safe
pairs are those of the highest cosines, one hundredth of the data more in every epoch, up to 85 %.

Cost: two views of either side, and one pass over all pairs without gradient before each of the last epochs.

Source: Yang, Gao and Mirzasoleiman, ICML 2024, arXiv 2310.05862; split and growth as in its released code.
Differs from it: the queue starts empty instead of as noise (the first batch finds itself, as in SimCLR), and is a share
of the data; two pairs with one neighbour are not each other's negatives; the warm-up of 5 of 32 epochs is a share of
the run; expectation maximisation starts from the quartiles instead of from k-means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Final, Self

import torch
from torch import Tensor

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.losses import info_nce, same_off_diagonal
from roclip_audit.train.methods.base import Embedder, Features, Loss, MethodSettings, Views
from roclip_audit.train.methods.clip import Clip
from roclip_audit.train.methods.roclip import pool_size
from roclip_audit.train.pool import CaptionPool

WARMUP_SHARE: Final = 5 / 32
SLOW_RATE: Final = 0.01
"""Of the learning rate, for the first epoch across the modalities: 5e-6 of 5e-4 in the released code."""
LEAST_POSTERIOR: Final = 0.9
SHARE_STEP: Final = 0.01
MOST_SAFE: Final = 0.85
_TWO_VIEWS: Final = Views(image=("strong", "strong"), text=("eda", "eda"))


class SafeClip(Clip):
    """Training on a growing set of safe pairs; implements ``Method``.

    Args:
        image_queue, text_queue: features of earlier batches, for the warm-up.
        n_pairs: of the data set.
        n_epochs: of the run.
    """

    name: ClassVar[str] = "safeclip"

    def __init__(self, image_queue: CaptionPool, text_queue: CaptionPool, *, n_pairs: int, n_epochs: int) -> None:
        super().__init__(augment=True)
        self.queues: Final = {"image": image_queue, "text": text_queue}
        self.n_warmup: Final = max(1, round(WARMUP_SHARE * n_epochs))
        self.is_safe_N = torch.zeros(n_pairs, dtype=torch.bool, device=image_queue.rows_PD.device)
        self._first_share = 0.0  # the growth is a function of the epoch, so that preparing one twice changes nothing

    @classmethod
    def build(cls, settings: MethodSettings) -> Self:
        """Make the method with empty queues.

        Raises:
            ConfigError: the queues are no share of the data, augmentation is off, or the run ends before a split.
        """
        if not settings.augment:
            raise ConfigError("safeclip compares two augmented views of each pair; it cannot run without augmentation")
        if not 0 < settings.pool_share <= 1:
            raise ConfigError(f"pool share {settings.pool_share:g}: must be above 0 and at most 1")
        size = pool_size(settings.n_pairs, settings.batch_size, settings.pool_share)
        image_queue, text_queue = (CaptionPool(size, settings.dim, device=settings.device) for _ in range(2))
        method = cls(image_queue, text_queue, n_pairs=settings.n_pairs, n_epochs=settings.n_epochs)
        if settings.n_epochs < method.n_warmup + 2:
            raise ConfigError(
                f"epochs {settings.n_epochs}: safeclip would end before it tells safe pairs from risky ones, in epoch "
                f"{method.n_warmup + 2}; more --epochs"
            )
        return method

    def views(self, epoch: int) -> Views:
        """Return two augmented views of either side; one in the slow epoch."""
        return self._views if epoch == self.n_warmup + 1 else _TWO_VIEWS

    def rate(self, epoch: int) -> float:
        """Return 1, or a hundredth in the slow epoch."""
        return SLOW_RATE if epoch == self.n_warmup + 1 else 1.0

    def safe_share(self, epoch: int) -> float:
        """Return the share of the data that is safe in an epoch after the first split."""
        n_grown = epoch - (self.n_warmup + 2)
        return self._first_share if n_grown == 0 else min(self._first_share + SHARE_STEP * n_grown, MOST_SAFE)

    def begin_epoch(self, epoch: int, embedder: Embedder) -> None:
        """Score all pairs and split them, from the second epoch after the warm-up on."""
        if epoch < self.n_warmup + 2:
            return
        cosine_N = embedder.cosines()
        if epoch == self.n_warmup + 2:
            is_safe_N = upper_posterior(cosine_N) > LEAST_POSTERIOR
            self._first_share = float(is_safe_N.double().mean())
        else:
            n_safe = round(self.safe_share(epoch) * len(cosine_N))
            is_safe_N = torch.zeros(len(cosine_N), dtype=torch.bool)
            is_safe_N[cosine_N.argsort(descending=True, stable=True)[:n_safe]] = True
        self.is_safe_N.copy_(is_safe_N)

    def loss(self, features: Features, epoch: int) -> Loss:
        """Return the loss of the epoch's stage."""
        if epoch <= self.n_warmup:
            images = self._towards_neighbour("image", features.image_VND, features)
            texts = self._towards_neighbour("text", features.text_VND, features)
            return Loss(total=images + texts, parts={"images": images, "texts": texts})
        if epoch == self.n_warmup + 1:
            return super().loss(features, epoch)
        is_safe_N = self.is_safe_N[features.pair_N]
        parts = {"safe": _across(features, is_safe_N), "risky": _alone(features, ~is_safe_N)}
        return Loss(total=parts["safe"] + parts["risky"], parts={**parts, "safe_share": is_safe_N.float().mean()})

    def _towards_neighbour(self, side: str, views_VND: tuple[Tensor, ...], features: Features) -> Tensor:
        """Return NNCLR's loss (Dwibedi et al. 2021, arXiv 2104.14548) of one modality, and refresh its queue."""
        (first_ND, second_ND), queue = views_VND, self.queues[side]
        if not queue.n_valid:
            queue.put(first_ND, features.pair_N)
        nearest_N = queue.nearest(first_ND)
        neighbour_ND = queue.rows_PD[nearest_N]  # a copy: the refresh below does not touch it
        queue.put(first_ND, features.pair_N)
        return info_nce(neighbour_ND, second_ND, features.scale, same_off_diagonal(nearest_N))

    def state(self) -> dict[str, Tensor]:
        """Return the queues, the safe pairs and the share of the first split."""
        queues = {f"{side}.{name}": part for side, queue in self.queues.items() for name, part in queue.state().items()}
        return {
            **queues,
            "is_safe": self.is_safe_N,
            "first_share": torch.tensor(self._first_share, dtype=torch.float64),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``state`` returned."""
        for side, queue in self.queues.items():
            queue.restore({name: state[f"{side}.{name}"] for name in queue.state()})
        self.is_safe_N.copy_(state["is_safe"])
        self._first_share = float(state["first_share"])


def _across(features: Features, is_safe_N: Tensor) -> Tensor:
    """Return CLIP's loss of the chosen pairs between either view of one side and the other view of the other."""
    (image_a, image_b), (text_a, text_b) = _chosen(features, is_safe_N)
    if not len(image_a):
        return features.scale.new_zeros(())
    return (info_nce(image_a, text_b, features.scale) + info_nce(image_b, text_a, features.scale)) / 2


def _alone(features: Features, is_risky_N: Tensor) -> Tensor:
    """Return the sum over both modalities of the loss between the two views of the chosen pairs."""
    (image_a, image_b), (text_a, text_b) = _chosen(features, is_risky_N)
    if not len(image_a):
        return features.scale.new_zeros(())
    return info_nce(image_a, image_b, features.scale) + info_nce(text_a, text_b, features.scale)


def _chosen(features: Features, is_chosen_N: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    return [view[is_chosen_N] for view in features.image_VND], [view[is_chosen_N] for view in features.text_VND]


def upper_posterior(value_N: Tensor, *, n_rounds: int = 500, least_gain: float = 1e-9) -> Tensor:
    """Return the probability that each value belongs to the higher of two normal components, float64 [N].

    Expectation maximisation from the quartiles; a few passes over N numbers, with no random start.

    Args:
        value_N: [N] at least one finite number, on the CPU; components of equal values are kept 0.001 wide.
        n_rounds: at most so many passes.
        least_gain: ends them, in mean log likelihood.
    """
    value_N = value_N.double()
    mean_2 = torch.stack([value_N.kthvalue(max(1, round(share * len(value_N)))).values for share in (0.25, 0.75)])
    variance_2 = value_N.var(correction=0).expand(2) + 1e-6
    weight_2 = torch.full((2,), 0.5, dtype=torch.float64)
    before = -math.inf
    for _ in range(n_rounds):
        squared_2N = (value_N - mean_2[:, None]) ** 2 / variance_2[:, None]
        log_2N = weight_2.log()[:, None] - 0.5 * (squared_2N + (2 * math.pi * variance_2).log()[:, None])
        total_N = log_2N.logsumexp(dim=0)
        share_2N = (log_2N - total_N).exp()
        likelihood = float(total_N.mean())
        if likelihood - before < least_gain:
            break
        before = likelihood
        count_2 = share_2N.sum(dim=1).clamp(min=1e-9)
        mean_2, weight_2 = (share_2N @ value_N) / count_2, count_2 / len(value_N)
        variance_2 = (share_2N * (value_N - mean_2[:, None]) ** 2).sum(dim=1) / count_2 + 1e-6
    return share_2N[int(mean_2.argmax())]
