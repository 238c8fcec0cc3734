"""Image features made small: standardised, then projected on their principal components.

Pretrained features have far more dimensions than a few thousand pairs can train heads on; most of them repeat each
other. The projection costs one pass over the features and makes neighbours and heads several times cheaper.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from roclip_audit.core.parallel import map_ordered
from roclip_audit.sanitize.dataset import RowArray

_SAMPLE = 20_000
_BLOCK = 1_024


def principal_basis(image_NVF: RowArray, dim: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Find mean, spread and the first principal components of the features of all views, on a sample of the pairs.

    Returns:
        mean_F, spread_F: float32 [F].
        basis_FR: float32 [F, R], R = min(dim, F); orthonormal columns, by falling variance.
    """
    n = len(image_NVF)
    rows = torch.from_numpy(np.sort(rng.choice(n, min(n, _SAMPLE), replace=False)))
    total = torch.zeros(image_NVF.row_shape[-1], dtype=torch.float64)
    square = torch.zeros(len(total), len(total), dtype=torch.float64)
    count = 0
    for block in rows.split(_BLOCK):
        features = image_NVF[block].flatten(0, 1)
        total += features.sum(0, dtype=torch.float64)
        square += features.T @ features
        count += len(features)
    mean = total / count
    covariance = square / count - torch.outer(mean, mean)
    spread = covariance.diagonal().clamp_min(1e-8).sqrt()
    _, vectors = torch.linalg.eigh(covariance / torch.outer(spread, spread))
    basis = with_one_sign(vectors.flip(1)[:, :dim])
    return mean.float(), spread.float(), basis.float().contiguous()


def with_one_sign(vector_FR: Tensor) -> Tensor:
    """Make the largest entry of every column positive: the sign of an eigenvector is arbitrary."""
    return vector_FR * vector_FR.gather(0, vector_FR.abs().argmax(0, keepdim=True)).sign()


def write_reduced(image_NVF: RowArray, dim: int, path: Path, rng: np.random.Generator, *, workers: int) -> np.ndarray:
    """Write the reduced features of all pairs, float16 [N, V, R], and return them memory-mapped."""
    mean_F, spread_F, basis_FR = principal_basis(image_NVF, dim, rng)
    shape = (len(image_NVF), image_NVF.row_shape[0], basis_FR.shape[1])
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)

    def project(start: int) -> tuple[int, np.ndarray]:
        block = image_NVF[slice(start, start + _BLOCK)]
        reduced: np.ndarray = (((block - mean_F) / spread_F) @ basis_FR).half().numpy()
        return start, reduced

    for start, reduced in map_ordered(project, range(0, shape[0], _BLOCK), workers=workers):
        out[start : start + len(reduced)] = reduced
    out.flush()
    mapped: np.ndarray = out
    return mapped
