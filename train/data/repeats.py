"""Which pairs show the same picture, so that all captions of one picture can be judged together.

Pictures are compared as thumbnails of 8 x 8 pixels less the mean thumbnail of the data set, with one constant more so
that two flat pictures are not equal by their noise. From a cosine of ``SAME`` on they are the same: copies of a file in
any number, and up to ``N_NEIGHBOURS`` that were saved again at lower quality (all of 300 icons at JPEG quality 60). Of
15,000 icons of 175 sets 186 fall into groups, 164 of them planted copies. Crops, flips and edited copies are the scan's
business, which compares features.

N pairs, D values of a thumbnail.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from roclip_audit.core.groups import connected_groups, first_of_each
from roclip_audit.core.neighbours import nearest
from roclip_audit.core.parallel import map_ordered
from roclip_audit.train.data.pictures import Pictures

SIDE_PX: Final = 8
FLOOR: Final = 0.1
"""The constant, in units of the full range of a pixel."""
SAME: Final = 0.995
N_NEIGHBOURS: Final = 24
EXACT_UP_TO: Final = 10_000
"""Pairs beyond which only the nearest cells of an inverted index are searched: of 50,000 icons the same groups, in 10 s
instead of 45 on one core."""
LEAST_A_CELL: Final = 40
"""Pairs for every cell; of fewer, faiss finds no good middles, and says so."""
_CHUNK: Final = 32


def number_pictures(pictures: Pictures, n_pairs: int, *, workers: int = 1) -> NDArray[np.int64]:
    """Return [n_pairs] a number of the picture of every pair, equal for the same pictures, below ``n_pairs``.

    A picture that cannot be decoded is like no other. Reads every picture once, by so many threads.
    """

    def thumbnails(start: int) -> tuple[Tensor, Tensor]:
        canvases = pictures.load(np.arange(start, min(start + _CHUNK, n_pairs)))
        pixels = F.adaptive_avg_pool2d(canvases.pixels_NCHW.float() / 255, SIDE_PX)
        return pixels.flatten(1).cpu(), canvases.readable_N.cpu()

    if not n_pairs:
        return np.zeros(0, dtype=np.int64)
    starts = range(0, n_pairs, _CHUNK)
    parts = list(map_ordered(thumbnails, starts, workers=workers))
    thumbnail_ND, readable_N = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    number_N = torch.arange(n_pairs)
    if len(readable := readable_N.nonzero()[:, 0]) > 1:
        number_N[readable] = readable[_first_of_group(thumbnail_ND[readable], workers)]
    return number_N.numpy()


def _first_of_group(thumbnail_ND: Tensor, workers: int) -> Tensor:
    """Return [N] the first row that shows the same picture."""
    distinct_ND, distinct_N = thumbnail_ND.unique(dim=0, return_inverse=True)  # any number of copies counts as one
    group_N = _groups(distinct_ND, workers)[distinct_N]
    return first_of_each(group_N)[group_N]


def _groups(thumbnail_ND: Tensor, workers: int) -> Tensor:
    """Number the groups of distinct thumbnails that show the same picture: int64 [N]."""
    centred_ND = thumbnail_ND - thumbnail_ND.mean(dim=0)
    floor_N1 = torch.full((len(centred_ND), 1), FLOOR * math.sqrt(centred_ND.shape[1]))
    unit_ND = F.normalize(torch.cat([centred_ND, floor_N1], dim=1), dim=1)
    if len(unit_ND) <= EXACT_UP_TO:
        similarity_NK, index_NK = nearest(unit_ND, unit_ND, min(N_NEIGHBOURS, len(unit_ND)), workers=workers)
    else:
        similarity_NK, index_NK = _nearest_in_cells(unit_ND)
    return connected_groups(similarity_NK, index_NK, SAME)


def _nearest_in_cells(unit_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Search the four nearest of 4 sqrt(N) cells, fewer if they would be thin: (cosine [N, K], row [N, K])."""
    import faiss

    rows = unit_ND.numpy()
    cells = f"IVF{min(round(4 * math.sqrt(len(rows))), len(rows) // LEAST_A_CELL)},Flat"
    index: Any = faiss.index_factory(rows.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = 4
    index.train(rows)
    index.add(rows)
    similarity, found = index.search(rows, N_NEIGHBOURS)
    return torch.from_numpy(similarity), torch.from_numpy(found)
