"""Synonyms: the shipped table, the look-up, and the making of the table from files in WordNet's format."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.data import synonyms
from roclip_audit.train.data.make_synonyms import UNWANTED_WORDS, main, make_table
from roclip_audit.train.data.synonyms import EXCEPTIONS, KINDS, MAX_WORD_CHARS, SHIPPED, Synonyms

WORDNET = Path("/usr/share/wordnet")  # Debian's wordnet-base
LICENCE = "  1 This database is provided under a licence.  \n  2   \n  3 Keep this notice.  \n"
DATA = {
    "noun": """\
00000001 05 n 03 goose 0 twit 0 wild_goose 0 001 @ 00000009 n 0000 | a bird; "geese fly"
00000002 05 n 02 canine 0 dog 1 000 | an animal
00000003 05 n 02 Xmas 0 Christmas 0 000 | a day
00000004 05 n 01 disparagement 0 000 | a petty remark
00000005 05 n 02 dog 0 rudeword 0 001 ;u 00000004 n 0202 | someone
00000006 05 n 02 dog 0 worseword 0 000 | (slang) offensive term for someone
00000007 05 n 02 dog 0 cunt 0 000 | someone
00000008 05 n 02 A.D. 0 2nd 0 000 | neither is a word
""",
    "verb": "00000001 29 v 02 run 0 scat 0 000 01 + 02 00 | go fast\n",
    "adj": "00000001 00 a 03 big(a) 0 large(p) 0 sizable 0 000 | of size\n",
    "adv": "00000001 02 r 02 fast 0 quick 0 000 | with speed\n",
}
IRREGULAR = {"noun": "geese goose\nmice mouse\n", "verb": "ran run\n", "adj": "", "adv": ""}

shipped = Synonyms()
words = [
    word
    for line in gzip.decompress(SHIPPED.read_bytes()).decode("ascii").splitlines()
    if line[0] not in "#["
    for word in line.split()
]


def wordnet(folder: Path) -> Path:
    """Write a WordNet of eleven synsets."""
    for kind in KINDS:
        (folder / f"data.{kind}").write_text(LICENCE + DATA[kind])
        (folder / f"{kind}.exc").write_text(IRREGULAR[kind])
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Synonyms:
    out = tmp_path / "table.txt"
    main([str(wordnet(tmp_path)), str(out)])
    return Synonyms(out)


@pytest.mark.parametrize(
    ("word", "some"),
    [
        ("sofa", {"couch", "lounge"}), ("CAR", {"auto", "automobile"}), ("photo", {"photograph", "picture"}),
        ("puppy", {"pup"}), ("geese", {"cuckoo"}), ("ran", {"race"}), ("happier", {"glad"}), ("quickly", {"rapidly"}),
        ("glasses", {"spectacles"}), ("bikes", {"bicycle"}), ("Xmas", {"Christmas"}), ("left-hand", {"left"}),
    ],
)  # fmt: skip
def test_known_words(word: str, some: set[str]) -> None:
    assert some <= set(shipped.of(word))


@pytest.mark.parametrize("word", ["", " ", "xyzzy", "2", "犬", "\ud800", "dog cat", "#", "[noun]", "the", "a" * 10**6])
def test_unknown_words_have_none(word: str) -> None:
    assert shipped.of(word) == ()


@given(st.text(st.characters(), max_size=50) | st.sampled_from(words))
def test_any_word(word: str) -> None:
    found = shipped.of(word)
    assert not word.isascii() or found == shipped.of(word.upper())
    assert len(set(found)) == len(found)
    assert word.lower() not in {one.lower() for one in found}


@given(st.sampled_from(words))
def test_synonyms_are_single_words(word: str) -> None:
    for one in shipped.of(word):
        assert one.replace("-", "").isalpha()
        assert one.isascii()


def test_words_that_wordnet_marks_are_left_out() -> None:
    assert {word.lower() for word in words}.isdisjoint({"nigger", "kike", "wop", "redskin", *UNWANTED_WORDS})


def test_the_table_is_small_and_says_its_licence() -> None:
    text = gzip.decompress(SHIPPED.read_bytes()).decode("ascii")
    assert len(text) < 10**6
    assert "WordNet 3.0 Copyright 2006 by Princeton University." in text
    assert max(map(len, words)) <= MAX_WORD_CHARS


def test_the_table_is_read_when_it_is_needed(tmp_path: Path) -> None:
    late = Synonyms(tmp_path / "none.txt")
    with pytest.raises(ConfigError, match=r"none\.txt"):
        late.of("dog")


def test_another_process_gets_the_path_alone() -> None:
    shipped.of("dog")
    sent = pickle.dumps(shipped)
    assert len(sent) < 500
    assert pickle.loads(sent).of("dog") == shipped.of("dog")


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synonyms, "MAX_REMEMBERED", 10)
    fresh = Synonyms()
    found = [fresh.of(f"{n}s") for n in range(100)] + [fresh.of("sofa")]
    assert len(fresh._remembered) <= 10
    assert found[-1] == shipped.of("sofa")


@pytest.mark.parametrize("content", [b"", b"[noun]\ndog hound\n", b"\xff", "[noun]\nchien mâtin\n".encode()])
def test_a_damaged_table_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"damaged\.txt"):
        Synonyms(path).of("dog")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("goose", ("twit",)), ("geese", ("twit",)), ("twits", ("goose",)), ("dog", ("canine",)),
        ("xmas", ("Christmas",)), ("ran", ("scat",)), ("larger", ("big", "sizable")),
        ("fast", ("quick",)), ("faster", ()), ("mice", ()),
        ("wild_goose", ()), ("rudeword", ()), ("worseword", ()), ("a.d.", ()),
    ],
)  # fmt: skip
def test_a_table_made_of_a_small_wordnet(small: Synonyms, word: str, expected: tuple[str, ...]) -> None:
    assert small.of(word) == expected


def test_the_licence_of_the_files_goes_into_the_table(tmp_path: Path) -> None:
    notice = [line for line in make_table(wordnet(tmp_path)).splitlines() if line.startswith("#")]
    assert notice[1:] == ["# This database is provided under a licence.", "#", "# Keep this notice."]


def test_the_sections_of_a_table(tmp_path: Path) -> None:
    sections = [line[1:-1] for line in make_table(wordnet(tmp_path)).splitlines() if line.startswith("[")]
    assert sections == [name for kind in KINDS for name in (kind, kind + EXCEPTIONS)]


@pytest.mark.parametrize(
    ("file", "content"), [("data.verb", "00000001 29 v 02 run 0\n"), ("data.adj", "x\n"), ("verb.exc", b"\xff")]
)
def test_what_is_not_wordnet_is_named(tmp_path: Path, file: str, content: str | bytes) -> None:
    wordnet(tmp_path)
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=file):
        make_table(tmp_path)


def test_a_folder_without_wordnet_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.noun.*wordnet-base"):
        make_table(tmp_path)


@pytest.mark.skipif(not WORDNET.exists(), reason="needs Debian's wordnet-base")
def test_the_shipped_table_is_what_the_script_makes() -> None:
    assert make_table(WORDNET) == gzip.decompress(SHIPPED.read_bytes()).decode("ascii")
