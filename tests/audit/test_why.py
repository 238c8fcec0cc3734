"""The reasons of a pair in words: the heaviest first, true to the columns, silent where chance would say the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from roclip_audit.audit.why import Measured, why

QUIET = Measured(
    risk_reason="pairing", q=0.1, q_caption=0.2, q_beside=None, q_caption_beside=None, worst_view="whole", whole_q=0.1,
    caption_disagreement=0.3, image_disagreement=None, trait_p=0.6, texture=0.0, patch=0.0, patch_x=0.9, patch_y=0.5,
    stamp_kind=None, n_stamp=0, anomaly=0.4, n_duplicates=1, n_duplicate_captions=1, n_same=1, n_conflicts=0,
    n_versions=1, n_caption_repeats=1, n_neighbours=8,
)  # fmt: skip


def test_what_chance_would_say_is_no_reason() -> None:
    assert why(QUIET) == ()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"q": 0.934}, "its caption loses to 93 % of all captions"),
        ({"q": 0.9996, "worst_view": "blur"}, "its caption loses to over 99 % of all captions, in the view “blur”"),
        ({"q_caption": 0.61}, "61 % of all pictures fit its caption better"),
        ({"q_beside": 0.7, "q_caption_beside": 0.6}, "by the second encoder its caption loses to 70 % of all captions"),
        (
            {"q_beside": 0.2, "q_caption_beside": 0.9},
            "by the second encoder 90 % of all pictures fit its caption better",
        ),
        ({"caption_disagreement": 0.9}, "90 % of captions agree better with those of the 8 most similar pictures"),
        ({"image_disagreement": 0.5}, "50 % of pictures look more like those that carry similar captions"),
        (
            {"n_duplicates": 50, "n_duplicate_captions": 45, "n_same": 41, "n_conflicts": 38},
            "one of 41 copies of this picture, of which 38 other captions say something else",
        ),
        (
            {"n_duplicates": 41, "n_duplicate_captions": 38},
            "one of 41 look-alikes under 38 captions",
        ),
        (
            {"n_same": 2, "n_conflicts": 1},
            "one of 2 copies of this picture, of which another caption says something else",
        ),
        ({"n_same": 34, "n_versions": 34, "risk_reason": "duplicates"}, "one of 34 slight versions of one picture"),
        (
            {"stamp_kind": "place", "n_stamp": 41},
            "one of 41 pictures that show the same detail at one place under similar captions",
        ),
        ({"n_caption_repeats": 12}, "12 pairs carry this very caption"),
        ({"campaigns": ("banana", "x"), "risk_reason": "trait"}, "it belongs to the campaign “banana”"),
        (
            {"trait_p": 0.0031, "patch": 9.0, "texture": 2.0},
            "its picture shares a patch at the middle right with those of similar captions, as 0.31 % do by chance",
        ),
        (
            {"trait_p": 0.02, "patch": -1.0, "texture": 2.0},
            "its picture shares texture with those of similar captions, as 2.0 % do by chance",
        ),
        (
            {"risk_reason": "density", "anomaly": 0.98},
            "its picture or its surroundings are more unusual than those of 98 % of all pairs",
        ),
        (
            {"q": 0.8, "whole_q": 0.004, "worst_view": "outline"},
            "as a whole its caption loses to only 0.40 % of all captions, in the view “outline” to 80 %, "
            "as where a trigger is at work",
        ),
    ],
)
def test_each_reason_in_its_words(changed: dict[str, object], sentence: str) -> None:
    assert why(replace(QUIET, **changed)) == (sentence,)  # type: ignore[arg-type]


def test_the_heaviest_three_and_the_leading_reason_first() -> None:
    pair = replace(
        QUIET, q=0.7, q_caption=0.9, caption_disagreement=0.8, image_disagreement=0.6, n_duplicates=3,
        n_duplicate_captions=2, risk_reason="duplicates",
    )  # fmt: skip
    found = why(pair)
    assert [sentence.split()[0] for sentence in found] == ["one", "90", "80"]


def test_neighbours_that_are_not_there_give_no_evidence() -> None:
    assert why(replace(QUIET, caption_disagreement=0.9, n_neighbours=0)) == ()
    assert why(replace(QUIET, caption_disagreement=None)) == ()
