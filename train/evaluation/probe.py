"""Linear probe: logistic regression on frozen picture features, as in CLIP's paper.

L-BFGS (torch's, in float64), at most 1,000 iterations, and an L2 penalty found on a validation split: from C = 1e-6,
1e-4, ..., 1e6 the step around the best is halved until there are eight to the decade (15 fits in place of 97). Then one
fit on all. Of equally good penalties the middle one is taken: a few validation pictures leave a plateau, and its ends
are extreme.

Source: CLIP (Radford et al. 2021, arXiv 2103.00020), appendix A.3.
Differs from it: features have unit length and come after the projection, and the validation pictures are a fifth of
each class's training pictures, drawn from the seed, for there is no official split.
Cost: 16 fits, each some hundred passes over N x D; with N in the hundreds of thousands, hours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.seeding import generator
from roclip_audit.train.evaluation.proportion import Proportion

MAX_ITERATIONS: Final = 1_000
VALIDATION_SHARE: Final = 0.2
FIRST_DECADES: Final = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)
FINEST_STEP: Final = 1 / 8
SCALE: Final = 1e8
"""Factor on loss and gradients: torch's L-BFGS compares their products with fixed numbers."""
_CHUNK: Final = 65_536
MOST_GRADIENT: Final = 1e-6
"""Of any weight, where a fit ends. At 1e-4, scikit-learn's own limit, the result hangs on the way there."""
LEAST_FALL: Final = 5e-4

Matrix = NDArray[np.float32]
Labels = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """Accuracy of a linear probe.

    Args:
        accuracy: on the test pictures.
        C: inverse strength of the penalty, as chosen.
        validation: accuracy of that C on the validation split, trained without it.
        n_train: pictures of the last fit, validation included.
        sweep: log10 of every C tried and its validation accuracy, ascending.
        converged: the last fit ended before the limit of iterations.
    """

    accuracy: Proportion
    C: float
    validation: Proportion
    n_train: int
    sweep: tuple[tuple[float, float], ...]
    converged: bool

    def as_json(self) -> dict[str, object]:
        """Return the numbers as JSON values."""
        return {
            "accuracy": self.accuracy.as_json(),
            "C": self.C,
            "validation": self.validation.as_json(),
            "train_pictures": self.n_train,
            "sweep": [{"log10_C": decade, "accuracy": accuracy} for decade, accuracy in self.sweep],
            "converged": self.converged,
        }


def linear_probe(
    train_X: Matrix, train_y: Labels, test_X: Matrix, test_y: Labels, seed: int, *, device: str = "cpu"
) -> ProbeResult:
    """Train a probe and count what it gets right.

    Args:
        train_X: [N, D].
        train_y: [N] labels; a class without test pictures does no harm.
        test_X: [M, D].
        test_y: [M] labels; pictures of a class that was not trained count as wrong.
        seed: of the validation split.
        device: where the fits are computed.

    Raises:
        ConfigError: fewer than two classes, or no class with two pictures.
    """
    held_N = validation_split(train_y, seed)
    kept_y, held_y = train_y[~held_N], train_y[held_N]
    if len(np.unique(kept_y)) < 2 or not held_N.any():
        raise ConfigError("--probe-train: the probe needs two classes, and two pictures of at least one of them")
    best, right = _search(_with_one(train_X[~held_N], device), kept_y, _with_one(train_X[held_N], device), held_y)
    model = _fit(_with_one(train_X, device), train_y, 10.0**best)
    return ProbeResult(
        accuracy=Proportion.of(model.n_right(_with_one(test_X, device), test_y), len(test_y)),
        C=10.0**best,
        validation=Proportion.of(right[best], len(held_y)),
        n_train=len(train_y),
        sweep=tuple((decade, right[decade] / len(held_y)) for decade in sorted(right)),
        converged=model.converged,
    )


def _search(kept_ND: Tensor, kept_y: Labels, held_ND: Tensor, held_y: Labels) -> tuple[float, dict[float, int]]:
    """Return the best log10 of C, and how many of the pictures held out each one tried gets right."""
    right: dict[float, int] = {}

    def try_decades(decades: tuple[float, ...]) -> float:
        """Fit what is new; return the best of all, of equals the one in the middle."""
        for decade in decades:
            if -6.0 <= decade <= 6.0 and decade not in right:
                right[decade] = _fit(kept_ND, kept_y, 10.0**decade).n_right(held_ND, held_y)
        equals = sorted(decade for decade in right if right[decade] == max(right.values()))
        return equals[(len(equals) - 1) // 2]

    best, step = try_decades(FIRST_DECADES), 1.0
    while step >= FINEST_STEP:
        best = try_decades((best - step, best + step))
        step /= 2
    return best, right


def validation_split(labels_N: Labels, seed: int) -> NDArray[np.bool_]:
    """Draw a fifth of each class, at least one picture, none of a class that has but one; True = held out, [N]."""
    rng = generator(seed, "eval", "validation split")
    held_N = np.zeros(len(labels_N), dtype=np.bool_)
    for label in np.unique(labels_N):
        rows = rng.permutation(np.flatnonzero(labels_N == label))
        if len(rows) > 1:
            held_N[rows[: max(1, round(VALIDATION_SHARE * len(rows)))]] = True
    return held_N


@dataclass(frozen=True, slots=True)
class _Fitted:
    """Weights [D + 1, K], the last row without penalty, of K classes."""

    weights_DK: Tensor
    classes_K: Labels
    converged: bool

    def n_right(self, input_ND: Tensor, label_N: Labels) -> int:
        """Count the pictures whose class is called."""
        called = [(part @ self.weights_DK).argmax(dim=1) for part in input_ND.split(_CHUNK)]
        return int((self.classes_K[torch.cat(called).cpu().numpy()] == label_N).sum())


def _fit(input_ND: Tensor, label_N: Labels, C: float) -> _Fitted:
    """Minimise mean cross-entropy and 1 / (2 C N) of the squared weights, until no gradient is above MOST_GRADIENT.

    The gradients of many classes are small from the start: at most ``LEAST_FALL`` of the first one may be left.
    """
    classes_K, place_N = np.unique(label_N, return_inverse=True)
    wanted_N, n_pictures = torch.from_numpy(place_N).to(input_ND.device), len(label_N)
    weights_DK = input_ND.new_zeros(input_ND.shape[1], len(classes_K), requires_grad=True)

    def loss() -> Tensor:
        weights_DK.grad = None
        total = SCALE * weights_DK[:-1].square().sum() / (2 * C * n_pictures)
        total.backward()
        total = total.detach()
        for inputs, wanted in zip(input_ND.split(_CHUNK), wanted_N.split(_CHUNK), strict=True):
            part = SCALE * F.cross_entropy(inputs @ weights_DK, wanted, reduction="sum") / n_pictures
            part.backward()
            total += part.detach()
        return total

    loss()
    limit = min(MOST_GRADIENT * SCALE, LEAST_FALL * _greatest_gradient(weights_DK))
    optimiser = torch.optim.LBFGS(
        [weights_DK],
        max_iter=MAX_ITERATIONS,
        max_eval=2 * MAX_ITERATIONS,
        tolerance_grad=limit,
        tolerance_change=0.0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )
    optimiser.step(loss)
    loss()  # the gradient left behind is that of the last trial
    return _Fitted(weights_DK.detach(), classes_K, converged=_greatest_gradient(weights_DK) <= limit)


def _greatest_gradient(weights_DK: Tensor) -> float:
    assert weights_DK.grad is not None
    return float(weights_DK.grad.abs().max())


def _with_one(X: Matrix, device: str) -> Tensor:
    """Return float64 [N, D + 1] on a device, with a constant for the bias."""
    input_ND = torch.ones(len(X), X.shape[1] + 1, dtype=torch.float64, device=device)
    input_ND[:, :-1] = torch.from_numpy(X).to(device)
    return input_ND
