"""The linear probe against scikit-learn used directly."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.evaluation import probe
from roclip_audit.train.evaluation.probe import _fit, _with_one, linear_probe, validation_split
from roclip_audit.train.evaluation.proportion import Proportion


def blobs(n: int, seed: int, spread: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    X = np.eye(3, 6)[y] + spread * rng.normal(size=(n, 6))
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32), y.astype(np.intp)


def test_the_last_fit_is_scikit_learns_on_all_training_pictures() -> None:
    (train_X, train_y), (test_X, test_y) = blobs(120, 0), blobs(80, 1)
    found = linear_probe(train_X, train_y, test_X, test_y, 0)
    direct = LogisticRegression(solver="lbfgs", C=found.C, max_iter=1000, tol=1e-6).fit(train_X, train_y)
    assert found.accuracy == Proportion.of(int((direct.predict(test_X) == test_y).sum()), 80)
    assert found.n_train == 120
    assert found.converged


def test_the_penalty_is_the_best_of_those_tried_on_the_split() -> None:
    train_X, train_y = blobs(120, 0)
    found = linear_probe(train_X, train_y, train_X, train_y, 3)
    held = validation_split(train_y, 3)
    decades = [decade for decade, _ in found.sweep]
    assert decades == sorted(set(decades))
    assert {-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0} <= set(decades)
    assert 10 <= len(decades) <= 15
    assert all(decade * 8 == round(decade * 8) for decade in decades)
    for decade, accuracy in found.sweep:
        model = LogisticRegression(solver="lbfgs", C=10.0**decade, max_iter=1000, tol=1e-6).fit(
            train_X[~held], train_y[~held]
        )
        assert accuracy == pytest.approx((model.predict(train_X[held]) == train_y[held]).mean())
    best = max(accuracy for _, accuracy in found.sweep)
    assert found.validation.share == best
    tied = [decade for decade, accuracy in found.sweep if accuracy == best]
    assert np.log10(found.C) == pytest.approx(tied[(len(tied) - 1) // 2])


def test_a_strong_penalty_and_many_classes_converge() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(200, 16))
    y = np.repeat(np.arange(200), 3)
    X = (centres[y] + 0.3 * rng.normal(size=(600, 16))).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    found = linear_probe(X, y, X, y, 0)
    assert found.converged
    assert found.accuracy.share > 0.9
    weak = _fit(_with_one(X, "cpu"), y, 1e-6)
    assert weak.converged
    input_ND = np.c_[X, np.ones(600)].astype(np.float64)
    logits = input_ND @ weak.weights_DK.numpy()
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    gradient = input_ND.T @ (share - np.eye(200)[y]) / 600
    gradient[:-1] += weak.weights_DK.numpy()[:-1] / (1e-6 * 600)
    assert np.abs(gradient).max() <= 1e-6


def test_rows_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    (train_X, train_y), (test_X, test_y) = blobs(120, 0), blobs(80, 1)
    whole = linear_probe(train_X, train_y, test_X, test_y, 0)
    monkeypatch.setattr(probe, "_CHUNK", 7)
    assert linear_probe(train_X, train_y, test_X, test_y, 0) == whole


def test_the_split_takes_a_fifth_of_each_class_and_never_the_only_picture() -> None:
    labels = np.asarray([0] * 20 + [1] * 2 + [2])
    held = validation_split(labels, 0)
    assert [int(held[labels == label].sum()) for label in range(3)] == [4, 1, 0]
    assert (held == validation_split(labels, 0)).all()
    assert (held != validation_split(labels, 1)).any()


def test_a_test_class_that_was_not_trained_counts_as_wrong() -> None:
    train_X, train_y = blobs(60, 0, spread=0.1)
    found = linear_probe(train_X, train_y, train_X[:4], np.asarray([*train_y[:3], 9]), 0)
    assert found.accuracy == Proportion.of(3, 4)


def test_too_little_to_train_on() -> None:
    X = np.eye(3, dtype=np.float32)
    for labels in ([0, 1, 2], [0, 0, 0]):
        with pytest.raises(ConfigError, match="two classes"):
            linear_probe(X, np.asarray(labels), X, np.asarray(labels), 0)
