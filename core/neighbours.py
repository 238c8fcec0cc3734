"""Exact nearest neighbours by cosine, in blocks.

One table of neighbours per modality feeds the duplicate groups, the neighbour evidence, every density detector and what
``show`` prints. Cost: N x M x D multiply-adds, read through blocks of fixed size, so memory does not grow with N beyond
the vectors and the table, and the result does not depend on the number of workers.

Where the processor multiplies bfloat16 in hardware, a block is multiplied in it and the best candidates are scored
again in fp32. Rounding q to q' and b to b' moves a cosine by at most |q - q'| |b| + |q'| |b - b'|, lengths that are
known, and rounding the result by at most 2**-8: about 0.007 together. So a row whose k-th fp32 score is at least the
worst kept candidate's rough score plus that bound cannot have missed a neighbour; the other rows are searched again in
fp32. The table holds the same neighbours either way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from roclip_audit.core.parallel import map_ordered

_RESULT_ERROR = 2.0**-8 + 2e-5  # of a cosine rounded to bfloat16, of sums in fp32, of lengths that are not quite 1
_QUERY_BLOCK = 512
_RESCORE_BLOCK = 64
_BASE_BLOCK = 16_384
_CHUNK = 16


def fast_rough_products() -> bool:
    """Return True if this processor multiplies bfloat16 in hardware."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def nearest(
    query_ND: Tensor,
    base_MD: Tensor,
    k: int,
    *,
    query_group_N: Tensor | None = None,
    base_group_M: Tensor | None = None,
    workers: int = 1,
) -> tuple[Tensor, Tensor]:
    """Find the ``k`` base vectors of highest cosine for every query vector.

    Args:
        query_ND: float32 [N, D], rows of unit length.
        base_MD: float32 [M, D], rows of unit length.
        k: neighbours per query; where fewer are eligible the row ends with similarity -inf and index -1.
        query_group_N: int [N]; base vectors of the same group as the query are not eligible.
        base_group_M: int [M]; required with ``query_group_N``.
        workers: threads; the result is the same for every value.

    Returns:
        similarity_NK: float32 [N, k], descending; ties by ascending index (which of those that tie at the cut are
            kept is left open).
        index_NK: int64 [N, k], rows of ``base_MD``.
    """
    if not len(query_ND):
        return torch.empty(0, k), torch.empty(0, k, dtype=torch.int64)
    rough = fast_rough_products() and len(base_MD) > 4 * _QUERY_BLOCK
    rounded_MD = base_MD.bfloat16() if rough else None
    error = _rounding_error(base_MD) if rough else 0.0

    def search(rows: Tensor, rounded_MD: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        group = query_group_N[rows] if query_group_N is not None else None
        return _search_block(query_ND[rows], base_MD, k, group, base_group_M, rounded_MD, error)

    everything = torch.arange(len(query_ND)).split(_QUERY_BLOCK)
    blocks = list(map_ordered(lambda rows: search(rows, rounded_MD), everything, workers=workers))
    similarity_NK = torch.cat([block[0] for block in blocks])
    index_NK = torch.cat([block[1] for block in blocks])
    unsure_N = torch.nonzero(torch.cat([block[2] for block in blocks]))[:, 0]
    unsure = unsure_N.split(_QUERY_BLOCK) if len(unsure_N) else ()
    again = map_ordered(lambda rows: search(rows, None), unsure, workers=workers)
    for rows, (similarity, index, _) in zip(unsure, again, strict=True):
        similarity_NK[rows], index_NK[rows] = similarity, index
    return similarity_NK, index_NK


def _rounding_error(vector_ND: Tensor) -> float:
    """Return the largest distance that rounding moves a vector."""
    return max(float((block - block.bfloat16().float()).norm(dim=1).max()) for block in vector_ND.split(_BASE_BLOCK))


def _search_block(
    query_BD: Tensor,
    base_MD: Tensor,
    k: int,
    query_group_B: Tensor | None,
    base_group_M: Tensor | None,
    rounded_MD: Tensor | None,
    error: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (similarity [B, k], index [B, k], unsure [B]) for one block of queries.

    ``rounded_MD`` is the base in bfloat16 for a rough search, None for an exact one; ``error`` is how far rounding
    moves a base vector at most.
    """
    rough = rounded_MD is not None
    keep = min(len(base_MD), k + 48 if rough else k)
    factor_BD = query_BD.bfloat16() if rough else query_BD
    against_MD = rounded_MD if rounded_MD is not None else base_MD
    best_BK = query_BD.new_full((len(query_BD), 0), 0.0)
    index_BK = torch.empty(len(query_BD), 0, dtype=torch.int64)
    for start in range(0, len(base_MD), _BASE_BLOCK):
        score_BM = factor_BD @ against_MD[start : start + _BASE_BLOCK].T
        if query_group_B is not None and base_group_M is not None:
            same = query_group_B[:, None] == base_group_M[None, start : start + _BASE_BLOCK]
            score_BM.masked_fill_(same, -torch.inf)
        score, index = _top_of_chunks(score_BM, keep)
        best_BK = torch.cat([best_BK, score.float()], 1)
        index_BK = torch.cat([index_BK, index + start], 1)
        best_BK, order = best_BK.topk(min(keep, best_BK.shape[1]), dim=1)
        index_BK = index_BK.gather(1, order)
    unsure_B = torch.zeros(len(query_BD), dtype=torch.bool)
    if rough:
        worst_B = best_BK[:, -1]
        best_BK = torch.where(best_BK.isneginf(), best_BK, _exact_scores(query_BD, base_MD, index_BK))
        kth_B = best_BK.topk(min(k, best_BK.shape[1]), dim=1).values[:, -1]
        factor_BD = factor_BD.float()
        bound_B = (query_BD - factor_BD).norm(dim=1) + factor_BD.norm(dim=1) * error + _RESULT_ERROR
        unsure_B = (kth_B < worst_B + bound_B) & (len(base_MD) > keep)
    return (*_sorted_top(best_BK, index_BK, k), unsure_B)


def _exact_scores(query_BD: Tensor, base_MD: Tensor, index_BK: Tensor) -> Tensor:
    """Score chosen candidates in fp32."""
    blocks = zip(query_BD.split(_RESCORE_BLOCK), index_BK.split(_RESCORE_BLOCK), strict=True)
    return torch.cat([(query[:, None] * base_MD[index]).sum(2) for query, index in blocks])


def _top_of_chunks(score_BM: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Take the top ``k`` of each row by way of the maxima of chunks: exact, and several times faster than topk."""
    n_rows, n_columns = score_BM.shape
    if n_columns <= 4 * _CHUNK * k:
        return score_BM.topk(min(k, n_columns), dim=1)
    padded = torch.nn.functional.pad(score_BM, (0, -n_columns % _CHUNK), value=-torch.inf)
    chunk_BC = padded.view(n_rows, -1, _CHUNK).amax(2).topk(k, dim=1).indices
    column_BK = (chunk_BC[:, :, None] * _CHUNK + torch.arange(_CHUNK)).flatten(1)
    score, order = padded.gather(1, column_BK).topk(k, dim=1)
    return score, column_BK.gather(1, order).clamp_max(n_columns - 1)  # beyond it lies padding, which scores -inf


def _sorted_top(score_BK: Tensor, index_BK: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Sort by descending score, then ascending index, cut at ``k`` and pad."""
    index_BK, by_index = index_BK.sort(dim=1)
    score_BK, by_score = score_BK.gather(1, by_index).sort(dim=1, descending=True, stable=True)
    index_BK = index_BK.gather(1, by_score).masked_fill(score_BK.isneginf(), -1)
    missing = k - score_BK.shape[1]
    if missing > 0:
        score_BK = torch.nn.functional.pad(score_BK, (0, missing), value=-torch.inf)
        index_BK = torch.nn.functional.pad(index_BK, (0, missing), value=-1)
    return score_BK[:, :k], index_BK[:, :k]
