"""A model's tokeniser for captions that an attacker may have written."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import torch

CAPTION_BYTES_PER_TOKEN = 26  # of a caption, only so many bytes per token of the context are read
WORD_BYTES_PER_TOKEN = 4  # and of a word: byte-pair encoding takes time in the square of its length
MAX_CACHED_WORDS = 500_000


class Tokenize:
    """A model's tokeniser, made safe for threads and for captions written to keep it busy."""

    def __init__(self, tokenizer: object, context_length: int) -> None:
        self._tokenizer = cast(Any, tokenizer)
        self._caption_bytes = CAPTION_BYTES_PER_TOKEN * context_length
        self._word_bytes = WORD_BYTES_PER_TOKEN * context_length
        self._lock = threading.Lock()  # Hugging Face tokenisers may not be borrowed twice

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        """Return token ids, int64 [B, context_length]."""
        with self._lock:
            cache = getattr(self._tokenizer, "cache", None)
            if cache is not None and len(cache) > MAX_CACHED_WORDS:  # open_clip's own never forgets a word
                self._tokenizer.cache = {word: parts for word, parts in cache.items() if word == parts}
            return cast("torch.Tensor", self._tokenizer([self._bounded(caption) for caption in captions]))

    def _bounded(self, caption: str) -> str:
        caption = _cut(caption, self._caption_bytes)
        words = caption.split()
        if max((len(word.encode()) for word in words), default=0) <= self._word_bytes:
            return caption
        return " ".join(_cut(word, self._word_bytes) for word in words)


def _cut(text: str, n_bytes: int) -> str:
    """Cut text to so many bytes of UTF-8, between characters; lone surrogates are replaced."""
    return text.encode("utf-8", "replace")[:n_bytes].decode("utf-8", "ignore")
