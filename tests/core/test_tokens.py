from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from roclip_audit.core.checkpoint import import_open_clip
from roclip_audit.core.tokens import Tokenize
from tests.encoderkit import CAPTIONS, HOSTILE_CAPTIONS

STOCK = import_open_clip().SimpleTokenizer(context_length=16)
OURS = Tokenize(STOCK, 16)
WORDS = (
    "a",
    "Dog's",
    "it'LL",
    "&amp;",
    "&lt;b&gt;",
    "&",
    "&amp;amp;lt;",
    "<start_of_text>",
    "<end_of_text>dog",
    "x2",
    "—",
    "café",
    "Ã©",
)
SPACES = (
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\r",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x1f",
    "\x85",
    "\u00a0",
    "\u2003",
    "\u3000",
    "\u200b",
    "",
)
PIECES = st.sampled_from(WORDS + SPACES) | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8)


@given(st.lists(PIECES, max_size=12).map("".join))
@example("&lt;p&gt; \t\n a")
@example("\x1b[31mred\x1b[0m")
@example("A" * 60 + " &#x41;")
def test_ids_are_those_of_the_stock_tokeniser(caption: str) -> None:
    if max((len(word.encode()) for word in caption.split()), default=0) <= 4 * 16:
        assert torch.equal(OURS([caption]), STOCK([caption]))


@given(st.text(st.characters(min_codepoint=0, max_codepoint=127), max_size=80))
def test_ids_of_any_ascii_are_those_of_the_stock_tokeniser(caption: str) -> None:
    if max((len(word) for word in caption.split()), default=0) <= 4 * 16:
        assert torch.equal(OURS([caption]), STOCK([caption]))


def test_captions_and_words_are_cut_as_any_others() -> None:
    for caption in (*CAPTIONS, *HOSTILE_CAPTIONS, "a" * 70 + " b", "b " * 300, "x" * 500):
        bounded = OURS._bounded(caption)
        assert torch.equal(OURS([caption]), STOCK([bounded]))


def test_a_batch_is_its_captions_one_by_one() -> None:
    assert torch.equal(OURS(CAPTIONS), torch.cat([OURS([caption]) for caption in CAPTIONS]))
    assert OURS([]).shape == (0, 16)


def test_the_demo_captions_keep_their_ids() -> None:
    captions = []
    for shard in sorted((Path(__file__).parents[2] / "demo" / "shards").glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    captions.append(json.load(tar.extractfile(member) or io.BytesIO())["caption"])
    assert len(captions) > 500
    stock = import_open_clip().SimpleTokenizer(context_length=24)
    assert torch.equal(Tokenize(stock, 24)(captions), stock(captions))


def test_words_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roclip_audit.core.tokens.MAX_CACHED_WORDS", 20)
    tokenize = Tokenize(import_open_clip().SimpleTokenizer(context_length=16), 16)
    for number in range(200):
        tokenize([f"word{number} of many"])
    assert len(tokenize._words) < 30


@pytest.mark.parametrize(
    "settings", [{"clean": "canonicalize"}, {"reduction_mask": "simple"}, {"additional_special_tokens": ["a b"]}]
)
def test_an_unusual_tokeniser_is_left_to_itself(settings: dict[str, object]) -> None:
    unusual = import_open_clip().SimpleTokenizer(context_length=16, **settings)
    captions = ["A b, c_d", "the cat's hat"]
    assert torch.equal(Tokenize(unusual, 16)(captions), unusual(captions))
