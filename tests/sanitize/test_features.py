"""Principal components against NumPy's singular values, and the reduced file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from roclip_audit.sanitize.dataset import RowArray
from roclip_audit.sanitize.features import principal_basis, write_reduced


def correlated(n: int, views: int, dim: int, *, offset: float = 0.0, seed: int = 0) -> np.ndarray:
    """Draw features with a falling spectrum, of very different scales, some always zero."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(n, views, dim)) * np.linspace(3, 0.05, dim) @ rng.normal(size=(dim, dim))
    scale = 10.0 ** rng.uniform(-1, 1, dim)
    features = offset + mixed * scale
    features[..., -1] = 0.0
    return features.astype(np.float32)


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_basis_equals_a_singular_value_decomposition(offset: float) -> None:
    features = correlated(700, 3, 12, offset=offset)
    mean, spread, basis = principal_basis(RowArray.of([features]), 4, np.random.default_rng(0))
    flat = features.reshape(-1, 12).astype(np.float64)
    np.testing.assert_allclose(mean, flat.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(spread[:-1], flat.std(0)[:-1], rtol=2e-3)
    standard = (flat - flat.mean(0)) / np.maximum(flat.std(0), 1e-4)
    expected = np.linalg.svd(standard, full_matrices=False)[2][:4]
    np.testing.assert_allclose(np.abs((expected @ basis.numpy()).diagonal()), 1.0, atol=2e-3)
    np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-5)
    variance = (standard @ basis.numpy()).var(0)
    assert (np.diff(variance) < 0).all()
    assert (basis.gather(0, basis.abs().argmax(0, keepdim=True)) > 0).all()


def test_more_components_than_features_gives_all() -> None:
    _, _, basis = principal_basis(RowArray.of([correlated(50, 1, 6)]), 99, np.random.default_rng(0))
    assert basis.shape == (6, 6)


def test_constant_features_and_one_pair_stay_finite() -> None:
    for features in (np.full((30, 2, 5), 7.0, dtype=np.float16), np.ones((1, 1, 5), dtype=np.float16)):
        for part in principal_basis(RowArray.of([features]), 3, np.random.default_rng(0)):
            assert part.isfinite().all()


def test_a_sample_stands_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roclip_audit.sanitize.features._SAMPLE", 1_000)
    features = RowArray.of([correlated(4_000, 1, 8)])
    sampled = principal_basis(features, 2, np.random.default_rng(0))[2]
    monkeypatch.undo()
    full = principal_basis(features, 2, np.random.default_rng(0))[2]
    assert (sampled * full).sum(0).abs().min() > 0.98


def test_the_file_holds_the_projections_and_workers_change_no_bit(tmp_path: Path) -> None:
    parts = [correlated(n, 2, 10, seed=n).astype(np.float16) for n in (1_500, 0, 700)]
    features = RowArray.of(parts)
    written = []
    for workers in (1, 3):
        path = tmp_path / f"{workers}.npy"
        reduced = write_reduced(features, 3, path, np.random.default_rng(0), workers=workers)
        assert reduced.shape == (2_200, 2, 3)
        assert reduced.dtype == np.float16
        written.append(path.read_bytes())
    assert written[0] == written[1]
    mean, spread, basis = principal_basis(features, 3, np.random.default_rng(0))
    expected = ((torch.from_numpy(np.concatenate(parts).astype(np.float32)) - mean) / spread) @ basis
    np.testing.assert_allclose(np.load(tmp_path / "1.npy"), expected, rtol=2e-3, atol=2e-3)
