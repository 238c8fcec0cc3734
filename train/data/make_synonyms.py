"""Make ``synonyms.txt.gz``, the table that `roclip_audit.train.data.synonyms` reads, from the files of WordNet.

Run it after `apt-get install wordnet-base` (or on the ``dict`` folder of Princeton's own archive); two seconds::

    python -m roclip_audit.train.data.make_synonyms /usr/share/wordnet train/data/synonyms.txt.gz

Kept are the synsets (sets of words of one meaning) with two or more single words of letters and hyphens, and of the
irregular forms (``geese goose``) those that lead to such a word. Left out are phrases, numbers and abbreviations with
dots; and, because a caption about a person or a cat is not to be trained on with a slur, every synset in which WordNet
itself marks a word as a slur or an obscenity, and the plainest of these words in their other senses.

Source: WordNet 3.0 database files, wndb(5WN), https://wordnet.princeton.edu/documentation/wndb5wn.
"""

from __future__ import annotations

import argparse
import gzip
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.run import write_atomic
from roclip_audit.train.data.synonyms import EXCEPTIONS, KINDS

USAGE = ";u"  # the pointer from a word or synset to the name of its usage
UNWANTED_USAGES = frozenset({"ethnic_slur", "disparagement", "obscenity"})
UNWANTED_GLOSS = re.compile(
    r"\b(?:offensive|obscene|disparaging|derogatory|insulting|vulgar)\b[^;]{0,25}?\b(?:slang|terms?|names?|words?)\b"
)
UNWANTED_WORDS = frozenset({
    "bullshit", "chink", "coon", "cunt", "dyke", "fag", "faggot", "fagot", "fuck", "fucking", "gook", "half-breed",
    "mammy", "sheeny", "shit", "spic", "spick", "twat", "whoreson",
})  # fmt: skip
ADJECTIVE_POSITION = re.compile(r"\((?:a|p|ip)\)$")
SINGLE_WORD = re.compile(r"[A-Za-z]{2,}(?:-[A-Za-z]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Synset:
    """One meaning: its words as WordNet spells them, what says how they are used, and the definition."""

    offset: str
    words: tuple[str, ...]
    usages: tuple[str, ...]
    gloss: str


def read_synsets(path: Path) -> Iterator[Synset]:
    """Yield the synsets of a ``data.*`` file, in its order.

    Raises:
        ConfigError: the file cannot be read, or is not one of WordNet's.
    """
    for number, line in enumerate(_lines(path), start=1):
        if not line.startswith("  "):
            try:
                yield _parse(line)
            except (ValueError, IndexError) as error:
                raise ConfigError(f"{path}, line {number}: not a synset of WordNet: {error}") from error


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}; expected the files of WordNet, such as wordnet-base installs") from error


def _parse(line: str) -> Synset:
    """Parse ``offset lex_file type w_cnt word lex_id ... p_cnt symbol offset kind source/target ... | gloss``."""
    head, _, gloss = line.partition("| ")
    fields = head.split()
    pointers_at = 4 + 2 * int(fields[3], 16)
    pointers = fields[pointers_at + 1 : pointers_at + 1 + 4 * int(fields[pointers_at])]
    return Synset(
        offset=fields[0],
        words=tuple(ADJECTIVE_POSITION.sub("", word) for word in fields[4:pointers_at:2]),
        usages=tuple(to for symbol, to in zip(pointers[::4], pointers[1::4], strict=True) if symbol == USAGE),
        gloss=gloss,
    )


def make_table(folder: Path) -> str:
    """Return the text of the table for the ``data.*`` and ``*.exc`` files of a folder; the same text every time.

    Raises:
        ConfigError: a file is missing or is not one of WordNet's.
    """
    synsets = {kind: list(read_synsets(folder / f"data.{kind}")) for kind in KINDS}
    unwanted = {one.offset for one in synsets["noun"] if not UNWANTED_USAGES.isdisjoint(one.words)}
    licence = [line.split(maxsplit=1)[1:] for line in _lines(folder / "data.noun") if line.startswith("  ")]
    parts = [
        "# Synonyms from WordNet, selected by roclip_audit.train.data.make_synonyms: one meaning a line.",
        *(f"# {' '.join(text)}".rstrip() for text in licence),
    ]
    for kind in KINDS:
        lines = sorted(set(_groups(synsets[kind], unwanted)))
        known = {word for line in lines for word in line.lower().split()}
        parts += [f"[{kind}]", *lines]
        parts += [f"[{kind}{EXCEPTIONS}]", *_exceptions(_lines(folder / f"{kind}.exc"), known)]
    return "\n".join(parts) + "\n"


def _groups(synsets: Iterable[Synset], unwanted: set[str]) -> Iterator[str]:
    for synset in synsets:
        words = [word for word in dict.fromkeys(synset.words) if SINGLE_WORD.fullmatch(word)]
        words = [word for word in words if word.lower() not in UNWANTED_WORDS]
        if len(words) > 1 and unwanted.isdisjoint(synset.usages) and not UNWANTED_GLOSS.search(synset.gloss):
            yield " ".join(words)


def _exceptions(lines: Iterable[str], known: set[str]) -> list[str]:
    """Keep of ``form base ...`` the single words whose bases are in the table."""
    kept = []
    for line in lines:
        form, *bases = line.split()
        bases = [base for base in bases if base in known and base != form]
        if bases and SINGLE_WORD.fullmatch(form):
            kept.append(" ".join([form, *bases]))
    return sorted(set(kept))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description="Make the table of synonyms from the files of WordNet.")
    parser.add_argument("wordnet", type=Path, help="folder with data.noun, noun.exc, ...")
    parser.add_argument("out", type=Path, help="the table to write")
    options = parser.parse_args(arguments)
    table = make_table(options.wordnet)
    content = table.encode("ascii")
    packed = gzip.compress(content, mtime=0) if options.out.suffix == ".gz" else content
    write_atomic(options.out, lambda path: path.write_bytes(packed))


if __name__ == "__main__":
    main()
