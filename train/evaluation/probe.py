"""Linear probe: logistic regression on frozen picture features, as in CLIP's paper.

L-BFGS, at most 1,000 iterations, and an L2 penalty found on a validation split: from C = 1e-6, 1e-4, ..., 1e6 the step
around the best is halved until there are eight to the decade (15 fits in place of 97). Then one fit on all. Of equally
good penalties the middle one is taken: a few validation pictures leave a plateau, and its ends are extreme.

Source: CLIP (Radford et al. 2021, arXiv 2103.00020), appendix A.3.
Differs from it: features have unit length and come after the projection, and the validation pictures are a fifth of
each class's training pictures, drawn from the seed, for there is no official split.
Cost: 16 fits, each some hundred passes over N x D; with N in the hundreds of thousands, hours.
"""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from roclip_audit.core.errors import ConfigError, MissingExtraError
from roclip_audit.core.seeding import generator
from roclip_audit.train.evaluation.proportion import Proportion

MAX_ITERATIONS: Final = 1_000
VALIDATION_SHARE: Final = 0.2
FIRST_DECADES: Final = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)
FINEST_STEP: Final = 1 / 8

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


def require_sklearn() -> None:
    """Raise MissingExtraError where scikit-learn is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        raise MissingExtraError("the linear probe", "eval")


def linear_probe(train_X: Matrix, train_y: Labels, test_X: Matrix, test_y: Labels, seed: int) -> ProbeResult:
    """Train a probe and count what it gets right.

    Args:
        train_X: [N, D].
        train_y: [N] labels; a class without test pictures does no harm.
        test_X: [M, D].
        test_y: [M] labels; pictures of a class that was not trained count as wrong.
        seed: of the validation split.

    Raises:
        MissingExtraError: scikit-learn is not installed.
        ConfigError: fewer than two classes, or no class with two pictures.
    """
    require_sklearn()
    held_N = validation_split(train_y, seed)
    kept_X, kept_y, held_X, held_y = train_X[~held_N], train_y[~held_N], train_X[held_N], train_y[held_N]
    if len(np.unique(kept_y)) < 2 or not held_N.any():
        raise ConfigError("--probe-train: the probe needs two classes, and two pictures of at least one of them")
    right: dict[float, int] = {}

    def try_decades(decades: tuple[float, ...]) -> float:
        """Fit what is new; return the best of all, of equals the one in the middle."""
        for decade in decades:
            if -6.0 <= decade <= 6.0 and decade not in right:
                right[decade] = _n_right(_fit(kept_X, kept_y, 10.0**decade), held_X, held_y)
        equals = sorted(decade for decade in right if right[decade] == max(right.values()))
        return equals[(len(equals) - 1) // 2]

    best, step = try_decades(FIRST_DECADES), 1.0
    while step >= FINEST_STEP:
        best = try_decades((best - step, best + step))
        step /= 2
    model = _fit(train_X, train_y, 10.0**best)
    return ProbeResult(
        accuracy=Proportion.of(_n_right(model, test_X, test_y), len(test_y)),
        C=10.0**best,
        validation=Proportion.of(right[best], len(held_y)),
        n_train=len(train_y),
        sweep=tuple((decade, right[decade] / len(held_y)) for decade in sorted(right)),
        converged=bool(model.n_iter_.max() < MAX_ITERATIONS),
    )


def validation_split(labels_N: Labels, seed: int) -> NDArray[np.bool_]:
    """Draw a fifth of each class, at least one picture, none of a class that has but one; True = held out, [N]."""
    rng = generator(seed, "eval", "validation split")
    held_N = np.zeros(len(labels_N), dtype=np.bool_)
    for label in np.unique(labels_N):
        rows = rng.permutation(np.flatnonzero(labels_N == label))
        if len(rows) > 1:
            held_N[rows[: max(1, round(VALIDATION_SHARE * len(rows)))]] = True
    return held_N


def _fit(X: Matrix, y: Labels, C: float) -> Any:  # noqa: ANN401 - scikit-learn has no types
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the result says whether it converged
        return LogisticRegression(solver="lbfgs", C=C, max_iter=MAX_ITERATIONS).fit(X, y)


def _n_right(model: Any, X: Matrix, y: Labels) -> int:  # noqa: ANN401
    return int((model.predict(X) == y).sum())
