"""Sentences: what they say, and that scanned text in them cannot do harm."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import numpy as np
import pytest

from roclip_audit.sanitize.campaigns.choice import Found
from roclip_audit.sanitize.campaigns.groups import Group
from roclip_audit.sanitize.campaigns.sentence import MAX_QUOTED, quoted, tell
from tests.audit.runkit import HOSTILE
from tests.sanitize.campaigns.campaignkit import scored_of


def found(kind: str, label: str) -> Found:
    rows = np.arange(8)
    group = Group(kind=kind, label=label, rows=rows, units=rows, exact=kind != "stamp")
    return Found(group=group, n_suspicious=6, base_rate=0.07, p_value=1e-9, p_corrected=1e-6, n_tested=1_000)


def test_what_a_sentence_says() -> None:
    scored = scored_of([f"banana {i}" for i in range(8)], np.ones(8))
    assert tell(found("captions", "banana"), scored, None) == (
        "8 pairs whose captions name 'banana': 6 of their pictures do not fit, 75% against 7% elsewhere "
        "(p = 1e-06, corrected for 1,000 groups)."
    )
    assert "from the domain 'x.example'" in tell(found("domain", "x.example"), scored, None)
    assert tell(found("trait", "banana"), scored, None).startswith(
        "8 pairs whose captions name 'banana' and whose pictures share a trait: 6 of them do not fit, 75% against 7% "
        "of other pairs that share one "
    )
    assert tell(found("stamp", "ball, red"), scored, None) == (
        "8 pairs with captions alike, telling words 'ball, red', show the same in pictures that are otherwise "
        "unlike (p = 1e-06 that captions are so alike, adjusted for 1,000 groups)."
    )
    stamp = replace(found("stamp", "ball, red"), shows="window")
    assert "show the same detail, wherever it lies, in pictures that are otherwise unlike" in tell(stamp, scored, None)
    stamp = replace(found("stamp", "ball, red"), shows="bend", by_captions=True)
    assert tell(stamp, scored, None) == (
        "8 pairs with captions alike, telling words 'ball, red', show the same bend of the whole picture, and pictures "
        "like theirs do not (p = 1e-06 by chance, adjusted for 1,000 groups)."
    )
    assert "share the uploader 'x'" in tell(found("uploader", "x"), scored, None)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("kind", ["captions", "stamp", "duplicate_image", "domain", "shard"])
def test_hostile_text_is_short_printable_and_quoted(text: str, kind: str) -> None:
    sentence = tell(found(kind, text), scored_of([text] * 8, np.ones(8)), None)
    assert len(sentence) < 300
    assert not {unicodedata.category(character) for character in sentence} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert sentence.count("'") == 2
    assert len(quoted(text)) <= MAX_QUOTED + 2
