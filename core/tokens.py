"""A model's tokeniser for captions that an attacker may have written."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import torch

CAPTION_BYTES_PER_TOKEN = 26  # of a caption, only so many bytes per token of the context are read
WORD_BYTES_PER_TOKEN = 4  # and of a word: byte-pair encoding takes time in the square of its length
MAX_CACHED_WORDS = 500_000
PLAIN = re.compile(r"[\t\n !-%'-~]*")  # ASCII without & and control characters: nothing in it to mend or to unescape


class Tokenize:
    """A model's tokeniser, made safe for threads and for captions written to keep it busy.

    open_clip's own tokeniser mends mojibake and HTML entities, which takes most of its time. Plain ASCII has neither,
    and no token spans two words, so its words are looked up one by one: 1.9 ms instead of 41 for 256 known captions.
    """

    def __init__(self, tokenizer: object, context_length: int) -> None:
        self._tokenizer = cast(Any, tokenizer)
        self._caption_bytes = CAPTION_BYTES_PER_TOKEN * context_length
        self._word_bytes = WORD_BYTES_PER_TOKEN * context_length
        self._lock = threading.Lock()  # Hugging Face tokenisers may not be borrowed twice
        self._by_word = _goes_by_word(tokenizer)
        self._words: dict[str, list[int]] = {}

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        """Return token ids, int64 [B, context_length]."""
        with self._lock:
            self._forget()
            if self._by_word:
                return self._padded([self._ids(caption) for caption in captions])
            return cast("torch.Tensor", self._tokenizer([self._bounded(caption) for caption in captions]))

    def _forget(self) -> None:
        """Keep what is remembered within bounds."""
        if len(self._words) > MAX_CACHED_WORDS:
            self._words.clear()
        cache = getattr(self._tokenizer, "cache", None)
        if cache is not None and len(cache) > MAX_CACHED_WORDS:  # open_clip's own never forgets a word
            self._tokenizer.cache = {word: parts for word, parts in cache.items() if word == parts}

    def _ids(self, caption: str) -> list[int]:
        """Return the ids of a caption without its ends; of a plain one as many as can matter."""
        if not PLAIN.fullmatch(caption):
            return cast("list[int]", self._tokenizer.encode(self._bounded(caption)))
        ids: list[int] = []
        for word in caption[: self._caption_bytes].lower().split():
            known = self._words.get(word)
            if known is None:
                known = self._words[word] = self._tokenizer.encode(word[: self._word_bytes])
            ids += known
            if len(ids) >= self._tokenizer.context_length:
                break
        return ids

    def _padded(self, captions: list[list[int]]) -> torch.Tensor:
        """Put the ends around ids, cut them to the context and fill it up with zeros."""
        import torch

        own, length = self._tokenizer, self._tokenizer.context_length
        rows = [[own.sot_token_id, *ids[: length - 2], own.eot_token_id] for ids in captions]
        return torch.tensor([row + [0] * (length - len(row)) for row in rows], dtype=torch.int64).view(-1, length)

    def _bounded(self, caption: str) -> str:
        caption = _cut(caption, self._caption_bytes)
        words = caption.split()
        if max((len(word.encode()) for word in words), default=0) <= self._word_bytes:
            return caption
        return " ".join(_cut(word, self._word_bytes) for word in words)


def _cut(text: str, n_bytes: int) -> str:
    """Cut text to so many bytes of UTF-8, between characters; lone surrogates are replaced."""
    return text.encode("utf-8", "replace")[:n_bytes].decode("utf-8", "ignore")


def _goes_by_word(tokenizer: object) -> bool:
    """Tell whether it is open_clip's own tokeniser with nothing out of the ordinary."""
    kind, own = type(tokenizer), cast(Any, tokenizer)
    return (
        (kind.__module__, kind.__name__) == ("open_clip.tokenizer", "SimpleTokenizer")
        and own.clean_fn.__name__ == "_clean_lower"
        and own.reduction_fn is None
        and len(own.all_special_ids) == 2
        and (own.context_length or 0) >= 2
    )
