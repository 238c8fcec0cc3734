"""Run fixed pieces of work on threads so that the result does not depend on how many threads there are.

Floating-point sums depend on how a product is split over intra-op threads. So every piece of work runs with exactly one
intra-op thread, the pieces are cut without regard to the number of workers, and results come back in order. Pillow,
torch, faiss and hashing release the interpreter lock, which is what makes threads enough.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def default_workers() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _use_one_thread() -> None:
    import faiss
    import torch

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Give the calling thread one intra-op thread while the block runs, for products outside ``map_ordered``."""
    import faiss
    import torch

    before, before_faiss = torch.get_num_threads(), faiss.omp_get_max_threads()
    _use_one_thread()
    try:
        yield
    finally:
        torch.set_num_threads(before)
        faiss.omp_set_num_threads(before_faiss)


def map_ordered(
    work: Callable[[T], R], items: Iterable[T], *, workers: int, ahead: int = 2, one_thread: bool = True
) -> Iterator[R]:
    """Yield ``work(item)`` in the order of ``items``, with at most ``workers * ahead`` results in memory.

    Args:
        work: pure function; runs with one intra-op thread, see ``one_thread``.
        items: consumed lazily.
        workers: number of threads, at least 1. The results are the same for every value.
        ahead: how many items per worker may be under way or waiting.
        one_thread: import torch and faiss to set this; False for work that uses neither.

    Raises:
        Whatever ``work`` raises, at the item's place; items not yet started are dropped.
    """
    with ThreadPoolExecutor(max_workers=workers, initializer=_use_one_thread if one_thread else None) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= workers * ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
