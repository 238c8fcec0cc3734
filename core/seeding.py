"""Randomness enters as a generator derived from (seed, stage, name); nothing seeds anything globally."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, *names: object) -> int:
    """Derive an independent 63-bit seed for a named piece of work."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *names: object) -> np.random.Generator:
    """Return a NumPy generator for a named piece of work."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, *names)))
