"""Change a word or two of a caption: easy data augmentation (EDA), the text augmentation of RoCLIP's training.

One of four operations, drawn by the seed: replace words with synonyms, insert synonyms, swap words, delete words.

    eda = Eda()
    eda("A brown dog on the grass.", seed=7)

Nothing here loads torch, and nothing is drawn but from the seed: the caller gives every pair and epoch a seed of its
own, or every pair one seed for good, which is what RoCLIP's code amounts to (it augments once, when the data set is
built). One seed for all pairs would give them all the same operation.

Source: Wei and Zou 2019, "EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification
Tasks", arXiv 1901.11196, with the rates of RoCLIP's code (arXiv 2303.06854).
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from typing import Final

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.data.synonyms import Synonyms

MAX_CHARS: Final = 2048  # what lies beyond stays as it is: CLIP reads 77 tokens, about 350 characters of English
AROUND_WORDS: Final = string.punctuation + "“”‘’«»‹›„…–—¡¿、。，；：！？（）「」『』【】"
_STOP_WORDS: Final = """
    a about above after again against all am an and any are as at be because been before being below between
    both but by can could did do does doing don down during each few for from further had has have having he
    her here hers herself him himself his how i if in into is it its itself just may me might more most must
    my myself no nor not now of off on once only or other our ours ourselves out over own s same shall she
    should so some such t than that the their theirs them themselves then there these they this those through
    to too under until up very was we were what when where which while who whom why will with would you your
    yours yourself yourselves
"""
STOP_WORDS: Final = frozenset(_STOP_WORDS.split())  # those of the code of Wei and Zou, modal verbs added

_MASK = 2**64 - 1
_Operation = Callable[[list[str], int, "_Draws"], list[str] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EdaConfig:
    """Which share of a caption's words each operation changes, in [0, 1]; 0 switches it off.

    Args:
        synonym_rate, insert_rate, swap_rate, delete_rate: the shares.
        least_one: change at least one word, as EDA does: a third of a caption of three words. Otherwise rate x words
            is rounded at random, so that short captions often stay as they are.

    Raises:
        ConfigError: a rate lies outside [0, 1], or all are 0.
    """

    synonym_rate: float = 0.1
    insert_rate: float = 0.1
    swap_rate: float = 0.1
    delete_rate: float = 0.1
    least_one: bool = True

    def __post_init__(self) -> None:
        rates = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "least_one"}
        for name, rate in rates.items():
            if not 0 <= rate <= 1:
                raise ConfigError(f"{name} must lie between 0 and 1, not {rate}")
        if not any(rates.values()):
            raise ConfigError(f"every rate is 0: set one of {', '.join(rates)}, or use no text augmentation")


class Eda:
    """Augment captions, each by one of the four operations.

    About 16 µs for a caption of seven words. An operation that cannot change a caption (no word with a synonym, nothing
    to swap) gives way to another; a caption that none can change, such as an empty one or a single word of an unknown
    language, comes back as it is. Only the first `MAX_CHARS` characters are looked at.

    Source: arXiv 1901.11196, section 2, and its code.
    Differs from it: case, digits, punctuation and scripts are kept (the code lower-cases and keeps a-z only); no
    caption raises (the code does on one without letters); every operation changes n = max(1, round(rate x words)) words
    where it can, so deletion always deletes (the code drops each word with the given probability, which leaves half of
    all seven-word captions as they were); a replacement changes one occurrence of a word, a swap is never undone by the
    next, and stop words are no source of synonyms (they are of the code's insertion).
    """

    def __init__(self, config: EdaConfig | None = None, synonyms: Synonyms | None = None) -> None:
        config = config or EdaConfig()
        self._least_one = config.least_one
        self._synonyms = synonyms or Synonyms()
        operations: list[tuple[_Operation, float]] = [
            (self._replace, config.synonym_rate),
            (self._insert, config.insert_rate),
            (_swap, config.swap_rate),
            (_delete, config.delete_rate),
        ]
        self._operations = [(operation, rate) for operation, rate in operations if rate > 0]

    def __call__(self, caption: str, seed: int) -> str:
        """Return the caption with words changed, if that is possible; white space becomes single spaces.

        Args:
            caption: any text.
            seed: of this pair (and epoch); the same caption and seed give the same answer. Read modulo 2^64.
        """
        head, tail = _split(caption)
        words = head.split()
        draws = _Draws(seed)
        operations = self._operations.copy()
        while words and operations:
            operation, rate = operations.pop(draws.below(len(operations)))
            n = max(1, round(rate * len(words)))
            if not self._least_one and not (n := draws.rounded(rate * len(words))):
                return caption
            changed = operation(words, n, draws)
            if changed is not None:
                return " ".join(changed) + tail
        return caption

    def _replace(self, words: list[str], n: int, draws: _Draws) -> list[str] | None:
        changed = words.copy()
        for position, synonym in islice(self._drawn_synonyms(words, draws), n):
            word = words[position]
            bare = word.strip(AROUND_WORDS)
            before, _, after = word.partition(bare)
            changed[position] = before + _in_the_case_of(bare, synonym) + after
        return changed if changed != words else None

    def _insert(self, words: list[str], n: int, draws: _Draws) -> list[str] | None:
        changed = words.copy()
        for _, synonym in islice(self._drawn_synonyms(words, draws), n):
            changed.insert(draws.below(len(changed) + 1), synonym)
        return changed if len(changed) > len(words) else None

    def _drawn_synonyms(self, words: list[str], draws: _Draws) -> Iterator[tuple[int, str]]:
        """Yield in random order the positions of the words that have synonyms, with one of these each."""
        for position in draws.order(len(words)):
            bare = words[position].strip(AROUND_WORDS).lower()
            if bare and bare not in STOP_WORDS and (found := self._synonyms.of(bare)):
                yield position, found[draws.below(len(found))]


def _swap(words: list[str], n: int, draws: _Draws) -> list[str] | None:
    """Swap n pairs of words, no word twice: a second swap must not undo the first."""
    n = min(n, len(words) // 2)
    changed = words.copy()
    drawn = draws.order(len(words))
    for first, second in islice(zip(drawn, drawn, strict=False), n):
        changed[first], changed[second] = words[second], words[first]
    return changed if changed != words else None


def _delete(words: list[str], n: int, draws: _Draws) -> list[str] | None:
    """Delete n words, but never all."""
    gone = set(islice(draws.order(len(words)), min(n, len(words) - 1)))
    return [word for position, word in enumerate(words) if position not in gone] if gone else None


def _split(caption: str) -> tuple[str, str]:
    """Split a long caption before its last word within `MAX_CHARS`; where no word ends there, nothing is changed."""
    if len(caption) <= MAX_CHARS:
        return caption, ""
    parts = caption[:MAX_CHARS].rsplit(None, 1)
    return (parts[0], caption[len(parts[0]) :]) if len(parts) > 1 else ("", caption)


def _in_the_case_of(word: str, synonym: str) -> str:
    if len(word) > 1 and word.isupper():
        return synonym.upper()
    return synonym[0].upper() + synonym[1:] if word[0].isupper() else synonym


class _Draws:
    """Draw small integers from a seed, the same on every version of Python.

    `random.Random(seed)` takes 9 µs to set up, this 0.7 and 1.3 a draw; `random.shuffle` and the like may change.

    Source: SplitMix64, Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
    """

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = int(seed) & _MASK

    def below(self, n: int) -> int:
        """Draw from 0 to n - 1."""
        self._state = mixed = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return ((mixed ^ (mixed >> 31)) * n) >> 64

    def rounded(self, value: float) -> int:
        """Round a number up with the chance of its fraction, else down."""
        return int(value) + (self.below(1 << 32) < (value - int(value)) * (1 << 32))

    def order(self, n: int) -> Iterator[int]:
        """Yield 0 to n - 1 in random order, drawing only as far as it is asked."""
        left = list(range(n))
        while left:
            drawn = self.below(len(left))
            left[drawn], left[-1] = left[-1], left[drawn]
            yield left.pop()
