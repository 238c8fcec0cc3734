"""Near-duplicate groups and the folds made of them.

A pair must only ever be judged by heads that saw neither it nor its copies, so near-duplicate images (and pairs with
equal captions on such images with them) are one group, and groups are dealt into folds whole.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from roclip_audit.core.groups import first_of_each

MAX_WORDS = 64  # of a caption that count; an attacker may write many
LEARNED_FROM = 5  # distinct captions that a word has to be in, or too few others teach it
_NOT_A_WORD = re.compile(r"[\W_]+")
_VARIATION_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")


def caption_key(caption: str) -> str:
    """Fold away case, accents' encoding, punctuation and spacing, so that near-identical captions compare equal.

    A caption without any letter or digit (an emoji) is its own key.
    """
    if caption.isascii():
        return _NOT_A_WORD.sub(" ", caption.casefold()).strip() or caption
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", caption).casefold())
    folded = _VARIATION_SELECTORS.sub("", folded)
    # Combining marks are no letters to `re`, but they are the vowels of Hindi, Thai and many more.
    return " ".join("".join(char if _is_of_a_word(char) else " " for char in folded).split()) or caption


def _is_of_a_word(char: str) -> bool:
    return char.isalnum() or unicodedata.category(char).startswith("M")


def words_of(caption: str) -> list[str]:
    """Return the words of ``caption_key``, at most ``MAX_WORDS``."""
    return caption_key(caption).split(maxsplit=MAX_WORDS)[:MAX_WORDS]


def number_captions(captions: Sequence[str]) -> Tensor:
    """Number distinct captions (after ``caption_key``) in order of first appearance.

    Returns:
        int64 [N].
    """
    seen: dict[str, int] = {}
    return torch.tensor([seen.setdefault(caption_key(caption), len(seen)) for caption in captions], dtype=torch.int64)


def known_share(captions: Sequence[str], caption_N: Tensor) -> Tensor:
    """Return how much of what a caption says can be learned from all of them: float64 [N] from 0 to 1.

    That is the share of its words that ``LEARNED_FROM`` distinct captions have at least, its own among them, a word
    weighing as much as it is rare: ln(captions / captions with it). A name that occurs once means nothing to who learns
    from these captions. In scripts without spaces a caption is one word.

    Args:
        captions: N of them.
        caption_N: int64 [N], equal for captions that say the same, ``number_captions``.
    """
    words_C = [set(words_of(captions[row])) for row in first_of_each(caption_N).tolist()]
    n_with = Counter(word for words in words_C for word in words)
    known_C = []
    for words in words_C:
        weights = {word: math.log(len(words_C) / n_with[word]) for word in sorted(words)}
        known = sum(weight for word, weight in weights.items() if n_with[word] >= LEARNED_FROM)
        total = sum(weights.values())
        known_C.append(known / total if total > 0 else 1.0)
    return torch.tensor(known_C, dtype=torch.float64)[caption_N]


def deal_folds(group_N: Tensor, n_folds: int, rng: np.random.Generator) -> Tensor:
    """Deal whole groups into folds of about equal size: largest groups first, each to the smallest fold.

    Returns:
        int64 [N] in ``[0, n_folds)``.
    """
    size_G = np.bincount(group_N.numpy())
    fold_G = np.zeros(len(size_G), dtype=np.int64)
    load_F = np.zeros(n_folds, dtype=np.int64)
    for group in np.lexsort((rng.random(len(size_G)), -size_G)):
        fold_G[group] = load_F.argmin()
        load_F[fold_G[group]] += size_G[group]
    return torch.from_numpy(fold_G)[group_N]


def duplicates(group_N: Tensor, caption_N: Tensor) -> tuple[Tensor, Tensor]:
    """Count the pairs of every pair's near-duplicate group, and the distinct captions in it: int64 [N] each."""
    distinct = torch.unique(torch.stack([group_N, caption_N], 1), dim=0)
    return torch.bincount(group_N)[group_N], torch.bincount(distinct[:, 0])[group_N]
