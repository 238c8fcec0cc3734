"""Why a pair is suspected, in two or three sentences with numbers: the evidence that weighs most comes first.

Every sentence is a reading of columns of ``suspicion`` and says no more than the column does (docs/schema.md). Shares
of 1/2 are what chance gives an unrelated caption, so evidence below FROM is no reason to suspect anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from roclip_audit.core.schema import LEAST_VERSIONS, TRAIT_P
from roclip_audit.core.words import STAMP_SHOWS, most, percent, place

FROM: Final = 0.5
RIGHT_AS_A_WHOLE: Final = 0.02
MOST_SENTENCES: Final = 3
REASONS: Final = {
    "pairing": "caption and picture",
    "trait": "shared trait",
    "duplicates": "repeated picture",
    "density": "unusual picture",
}
"""What ``risk_reason`` says, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is known of a pair that can be a reason; names and ranges as in the view ``suspicion``.

    Attributes:
        whole_q: q of the view ``whole``.
        n_neighbours: image neighbours that caption_disagreement rests on.
        campaigns: labels of the campaigns whose suspicious pairs it is among; text of the scanned data.
    """

    risk_reason: str
    q: float
    q_caption: float
    q_beside: float | None
    q_caption_beside: float | None
    worst_view: str
    whole_q: float
    caption_disagreement: float | None
    image_disagreement: float | None
    trait_p: float
    texture: float
    patch: float
    patch_x: float
    patch_y: float
    stamp_kind: str | None
    n_stamp: int
    anomaly: float
    n_duplicates: int
    n_duplicate_captions: int
    n_same: int
    n_conflicts: int
    n_versions: int
    n_caption_repeats: int
    n_neighbours: int
    campaigns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Sentence:
    weight: float
    reason: str
    text: str


def why(pair: Measured) -> tuple[str, ...]:
    """Return up to MOST_SENTENCES sentences, without capital and full stop; the one that ``risk_reason`` names leads.

    What a sentence quotes of the data (labels of campaigns) is hostile text and is left for the caller to escape.
    """
    found = sorted(_sentences(pair), key=lambda one: (one.reason != pair.risk_reason, -one.weight))
    return tuple(one.text for one in found[:MOST_SENTENCES])


def _sentences(pair: Measured) -> Iterator[_Sentence]:
    yield from _contest(pair)
    yield from _neighbourhood(pair)
    yield from _copies(pair)
    for label in pair.campaigns[:1]:
        yield _Sentence(1.0, "trait", f"it belongs to the campaign “{label}”")
    if pair.n_stamp > 1:
        what = STAMP_SHOWS.get(pair.stamp_kind or "", "the same")
        text = f"one of {pair.n_stamp:,} pictures that show {what} under similar captions"
        yield _Sentence(1.0, "trait", text)
    if pair.trait_p <= TRAIT_P:
        what = f"a patch {place(pair.patch_x, pair.patch_y)}" if pair.patch > pair.texture else "texture"
        text = f"its picture shares {what} with those of similar captions, as {percent(pair.trait_p)} do by chance"
        yield _Sentence(1 - pair.trait_p, "trait", text)
    if pair.risk_reason == "density":
        text = f"its picture or its surroundings are more unusual than those of {most(pair.anomaly)} of all pairs"
        yield _Sentence(pair.anomaly, "density", text)


def _contest(pair: Measured) -> Iterator[_Sentence]:
    if pair.q >= FROM and pair.whole_q < RIGHT_AS_A_WHOLE and pair.worst_view != "whole":
        text = (
            f"as a whole its caption loses to only {percent(pair.whole_q)} of all captions, in the view "
            f"“{pair.worst_view}” to {most(pair.q)}, as where a trigger is at work"
        )
        yield _Sentence(pair.q, "pairing", text)
    elif pair.q >= FROM:
        view = "" if pair.worst_view == "whole" else f", in the view “{pair.worst_view}”"
        yield _Sentence(pair.q, "pairing", f"its caption loses to {most(pair.q)} of all captions{view}")
    if pair.q_caption >= FROM:
        yield _Sentence(pair.q_caption, "pairing", f"{most(pair.q_caption)} of all pictures fit its caption better")
    yield from _second_opinion(pair)


def _second_opinion(pair: Measured) -> Iterator[_Sentence]:
    """Tell what the encoder beside the first one sees, by the direction in which it doubts the pair more."""
    by_caption, by_picture = pair.q_beside or 0.0, pair.q_caption_beside or 0.0
    if max(by_caption, by_picture) >= FROM:
        text = (
            f"by the second encoder its caption loses to {most(by_caption)} of all captions"
            if by_caption >= by_picture
            else f"by the second encoder {most(by_picture)} of all pictures fit its caption better"
        )
        yield _Sentence(max(by_caption, by_picture), "pairing", text)


def _neighbourhood(pair: Measured) -> Iterator[_Sentence]:
    if pair.caption_disagreement is not None and pair.caption_disagreement >= FROM and pair.n_neighbours:
        near = f"the {pair.n_neighbours} most similar pictures" if pair.n_neighbours > 1 else "the most similar picture"
        text = f"{most(pair.caption_disagreement)} of captions agree better with those of {near}"
        yield _Sentence(pair.caption_disagreement, "pairing", text)
    if pair.image_disagreement is not None and pair.image_disagreement >= FROM:
        text = f"{most(pair.image_disagreement)} of pictures look more like those that carry similar captions"
        yield _Sentence(pair.image_disagreement, "pairing", text)


def _copies(pair: Measured) -> Iterator[_Sentence]:
    if pair.n_conflicts:
        others = "another caption says" if pair.n_conflicts == 1 else f"{pair.n_conflicts:,} other captions say"
        text = f"one of {pair.n_same:,} copies of this picture, of which {others} something else"
        yield _Sentence(1 - 0.5 / (1 + pair.n_conflicts), "duplicates", text)
    if pair.n_versions >= LEAST_VERSIONS and pair.risk_reason == "duplicates":
        yield _Sentence(0.9, "duplicates", f"one of {pair.n_versions:,} slight versions of one picture")
    if not pair.n_conflicts and pair.n_duplicate_captions > 1:
        text = f"one of {pair.n_duplicates:,} look-alikes under {pair.n_duplicate_captions:,} captions"
        yield _Sentence(1 - 0.5 / pair.n_duplicate_captions, "duplicates", text)
    if pair.n_caption_repeats >= 3:
        text = f"{pair.n_caption_repeats:,} pairs carry this very caption"
        yield _Sentence(1 - 2 / pair.n_caption_repeats, "trait", text)
