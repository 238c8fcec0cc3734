"""Candidate groups: sets of pairs that somebody may have planted together, whatever their suspicion.

What is counted is not the pair but the *unit*: a family of look-alike pictures counts once in a group, because copies
and the pieces of one puzzle are doubted together. In a group of near-duplicate pictures the distinct captions are the
units. A unit is represented by its pair of median p-value, so that neither the order of the pairs nor one odd member
decides for it.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch

from roclip_audit.core.seeding import derive_seed
from roclip_audit.sanitize.align import cluster_captions
from roclip_audit.sanitize.campaigns.domains import domain_of
from roclip_audit.sanitize.campaigns.scored import Scored
from roclip_audit.sanitize.grouping import words_of

MIN_UNITS: Final = 5
MIN_WORDED: Final = 10  # of captions: fewer that the encoder happens not to see are in every data set
MAX_SHARE: Final = 0.2  # of all pairs; a larger group is the data set
CLUSTER_SIZE: Final = 40
MAX_CLUSTERS: Final = 1_000
LABEL_WORDS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Pairs that share something.

    Attributes:
        kind: ``captions``, ``trait`` (captions and a trait), ``stamp``, ``duplicate_image``, ``domain``, ``shard``, or
            what a caller adds.
        label: what names the group; text of the scanned data.
        rows: int64, its pairs, rising.
        units: int64, one row for each that counts on its own, rising.
        exact: True if the label is a word or phrase that every caption of the group holds.
    """

    kind: str
    label: str
    rows: np.ndarray
    units: np.ndarray = field(repr=False)
    exact: bool = True


def candidate_groups(scored: Scored, *, seed: int) -> list[Group]:
    """Return every group that is tested, in an order that depends on the data alone."""
    groups = [*_of_captions(scored, seed), *_of_pictures(scored)]
    hosts = [domain_of(url) for url in scored.urls]
    groups += _of_values(scored, "domain", ((row, host) for row, host in enumerate(hosts) if host is not None))
    names = [shard.name for shard in scored.shards]
    groups += _of_values(scored, "shard", ((row, names[shard]) for row, shard in enumerate(scored.shard_N.tolist())))
    return groups


def traced_groups(groups: Iterable[Group], scored: Scored, traced_N: np.ndarray) -> list[Group]:
    """Return what is left of groups of captions where only pairs that share a trait count; of equal ones the first."""
    found: dict[bytes, Group] = {}
    for group in groups:
        rows = group.rows[traced_N[group.rows]]
        if group.kind == "captions" and len(rows) >= MIN_WORDED and rows.tobytes() not in found:
            traced = group_of(scored, "trait", group.label, rows.tolist(), exact=group.exact)
            if len(traced.units) >= MIN_WORDED:
                found[rows.tobytes()] = traced
    return list(found.values())


def stamped_groups(scored: Scored, n_stamps: int) -> list[Group]:
    """Return the carriers of every stamp, number 1 first."""
    words = _words_of(scored) if n_stamps else []
    frequency = Counter(word for found in words for word in set(found))
    groups = []
    for number in range(1, n_stamps + 1):
        rows = np.flatnonzero(scored.stamp_N == number).tolist()
        label = _telling_words([words[row] for row in rows], frequency, len(scored))
        groups.append(group_of(scored, "stamp", label, rows, exact=False))
    return groups


def group_of(scored: Scored, kind: str, label: str, rows: Iterable[int], *, exact: bool = True) -> Group:
    """Make a group of pairs in which a family of look-alike pictures counts once."""
    members = np.array(sorted(rows), dtype=np.int64)
    return Group(kind=kind, label=label, rows=members, units=_units_of(members, scored.family_N, scored), exact=exact)


def _units_of(rows: np.ndarray, number_N: np.ndarray, scored: Scored) -> np.ndarray:
    """Return, for every number, the row of median p-value (the lower of two), rising."""
    ordered = rows[np.lexsort((rows, scored.p_value_N[rows], number_N[rows]))]
    _, first, count = np.unique(number_N[ordered], return_index=True, return_counts=True)
    return np.sort(ordered[first + (count - 1) // 2])


def _usable(groups: Iterable[Group], n: int, max_share: float, least: int = MIN_UNITS) -> Iterator[Group]:
    for group in groups:
        if len(group.units) >= least and len(group.rows) <= max_share * n:
            yield group


def _of_values(scored: Scored, kind: str, rows: Iterable[tuple[int, str]]) -> Iterator[Group]:
    by_value: dict[str, list[int]] = defaultdict(list)
    for row, value in rows:
        by_value[value].append(row)
    groups = (group_of(scored, kind, value, by_value[value]) for value in sorted(by_value))
    return _usable(groups, len(scored), 0.5)


def _of_pictures(scored: Scored) -> Iterator[Group]:
    by_picture: dict[int, list[int]] = defaultdict(list)
    for row, number in enumerate(scored.duplicate_N.tolist()):
        by_picture[number].append(row)
    words = _words_of(scored)
    for number in sorted(by_picture):
        rows = np.array(by_picture[number], dtype=np.int64)
        units = _units_of(rows, scored.caption_N, scored)
        if len(units) >= MIN_UNITS and len(rows) <= MAX_SHARE * len(scored):
            label = _telling_words([words[row] for row in rows.tolist()], {}, len(scored))
            yield Group(kind="duplicate_image", label=label, rows=rows, units=units, exact=False)


def _words_of(scored: Scored) -> list[list[str]]:
    return [words_of(caption) for caption in scored.captions]


def _of_captions(scored: Scored, seed: int) -> Iterator[Group]:
    """Yield groups by word, by two words in a row, and by cluster; of equal groups the first."""
    words = _words_of(scored)
    by_phrase: dict[str, list[int]] = defaultdict(list)
    for row, found in enumerate(words):
        for phrase in {*found, *map(" ".join, itertools.pairwise(found))}:
            by_phrase[phrase].append(row)
    most = MAX_SHARE * len(scored)
    phrases = [phrase for phrase, rows in by_phrase.items() if MIN_WORDED <= len(rows) <= most]
    seen: set[bytes] = set()
    for phrase in sorted(phrases, key=lambda phrase: (phrase.count(" "), phrase)):
        members = np.array(by_phrase[phrase], dtype=np.int64).tobytes()
        if members not in seen:
            seen.add(members)
            group = group_of(scored, "captions", phrase, by_phrase[phrase])
            yield from _usable([group], len(scored), MAX_SHARE, MIN_WORDED)
    n_clusters = min(MAX_CLUSTERS, len(scored) // CLUSTER_SIZE)
    if n_clusters < 2:
        return
    cluster_N = cluster_captions(scored.text_ND, n_clusters, derive_seed(seed, "campaigns", "clusters"))
    frequency = {phrase: len(rows) for phrase, rows in by_phrase.items() if " " not in phrase}
    for cluster in range(n_clusters):
        rows = torch.nonzero(cluster_N == cluster)[:, 0].tolist()
        label = _telling_words([words[row] for row in rows], frequency, len(scored))
        group = group_of(scored, "captions", label, rows, exact=False)
        yield from _usable([group], len(scored), MAX_SHARE, MIN_WORDED)


def _telling_words(captions: list[list[str]], frequency: Mapping[str, int], n: int) -> str:
    """Name a set of captions by the words that are most over-represented in it (count times log of the ratio)."""
    counts = Counter(word for words in captions for word in set(words))
    size = max(1, len(captions))

    def weight(word: str) -> float:
        outside = max(1, frequency.get(word, 0)) / n if frequency else 1 / size
        return counts[word] * float(np.log(max(counts[word] / size / outside, 1e-9)))

    return ", ".join(sorted(counts, key=lambda word: (-weight(word), word))[:LABEL_WORDS])
