"""Oracles: the standard library's tarfile for the walk, open_clip's own pipeline for the grouping."""

from __future__ import annotations

import io
import tarfile
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from roclip_audit.core.problems import REASONS
from roclip_audit.core.samples import MAX_MEMBERS_PER_SAMPLE, Sample, Stray, split_name, walk_samples
from roclip_audit.core.tar import MAX_EXTENSION_BYTES, MAX_NAME_BYTES, Damage, Member, storable, walk_members
from roclip_audit.core.torchvision_compat import ensure_torchvision_importable
from tests.shardkit import tar_bytes

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def walked(content: bytes) -> tuple[list[Member], Damage | None]:
    members: list[Member] = []
    damage = None
    for found in walk_members(content):
        assert damage is None, "nothing may follow a damage"
        if isinstance(found, Member):
            members.append(found)
        else:
            damage = found
    if damage is not None:
        assert damage.reason in REASONS
        assert 0 <= damage.n_unread <= len(content)
    return members, damage


def read_by_tarfile(content: bytes) -> list[tuple[str, bool, bytes]]:
    """Read as webdataset does (a stream), up to the first error."""
    read: list[tuple[str, bool, bytes]] = []
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r|") as tar:
            for info in tar:
                file = tar.extractfile(info) if info.isreg() else None
                read.append((info.name.rstrip("/"), info.isreg(), b"" if file is None else file.read()))
    except (tarfile.TarError, ValueError, EOFError):
        pass
    return read


def ours(content: bytes) -> list[tuple[str, bool, bytes]]:
    return [
        (m.name.rstrip("/"), m.is_file, content[m.offset : m.offset + m.size] if m.is_file else b"")
        for m in walked(content)[0]
    ]


def header(name: bytes = b"a.txt", size: bytes = b"00000000005\0", kind: bytes = b"0", prefix: bytes = b"") -> bytes:
    """Build one header with a correct checksum."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:124] = b"0000644\0" + b"0000000\0" * 2
    block[124:136] = size
    block[136:148] = b"00000000000\0"
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def data(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


END = bytes(1024)
SMALL = header() + data(b"hello")
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30).map(
    lambda name: name.strip("/") or "x"
)


TYPES = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.CONTTYPE)
Recipe = tuple[int, list[tuple[str, bytes, int, float]]]
recipes = st.tuples(
    st.sampled_from(FORMATS[1:]),
    st.lists(
        st.tuples(
            names | st.integers(90, 300).map(lambda n: "d/" * (n // 4) + "n" * (n // 2)),
            st.sampled_from((tarfile.REGTYPE,) * 4 + TYPES),
            st.sampled_from([0, 1, 511, 512, 513, 1500]),
            st.sampled_from([0.0, 1.5]),
        ),
        max_size=6,
    ),
)


def cook(recipe: Recipe) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=recipe[0]) as tar:
        for name, kind, size, mtime in recipe[1]:
            info = tarfile.TarInfo(name)
            info.type, info.mtime, info.linkname = kind, mtime, "target"
            info.size = size if info.isreg() else 0
            tar.addfile(info, io.BytesIO(bytes(range(256)) * 6))
    return out.getvalue()


@given(recipes)
@settings(max_examples=150, deadline=None)
def test_walk_agrees_with_tarfile_and_tiles_the_archive(recipe: Recipe) -> None:
    content = cook(recipe)
    members, damage = walked(content)
    assert damage is None
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        infos = tar.getmembers()
    assert [(m.name.rstrip("/"), m.offset, m.size, m.is_file) for m in members] == [
        (i.name, i.offset_data, i.size, i.isreg()) for i in infos
    ]
    assert [m.start for m in members[1:]] == [m.end for m in members[:-1]]
    assert not members or (members[0].start == 0 and not content[members[-1].end :].strip(b"\0"))


fields = st.integers(0, 511) | st.integers(100, 160) | st.sampled_from([0, 1, 124, 125, 134, 135, 156, 345])


def repair(content: bytearray, start: int) -> None:
    """Make the checksum of a header right again."""
    content[start + 148 : start + 156] = b" " * 8
    content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])


@given(recipes, st.data())
@settings(max_examples=200, deadline=None)
def test_a_broken_archive_never_shows_the_training_what_the_scan_does_not_see(
    recipe: Recipe, data: st.DataObject
) -> None:
    """Whatever is cut or overwritten: up to a fatal damage both read the same, and without one tarfile sees no more."""
    content = cook(recipe)
    starts = [member.offset - 512 for member in walked(content)[0]]
    broken = bytearray(content[: data.draw(st.integers(0, len(content)))])
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.sampled_from([0, *starts]))
        if len(broken) >= start + 512:
            broken[start + data.draw(fields)] = data.draw(st.integers(0, 255) | st.sampled_from(b"0157 \0-_/x"))
            if data.draw(st.booleans()):
                repair(broken, start)
    scanned, trained = ours(bytes(broken)), read_by_tarfile(bytes(broken))
    damage = walked(bytes(broken))[1]
    n = min(len(scanned), len(trained))
    assert scanned[:n] == trained[:n]
    assert len(trained) <= len(scanned) or (damage is not None and damage.fatal)


@given(
    st.sampled_from([b"0", b"\0", b"7", b"5", b"2", b"V", b"Z", b"x", b"L"]),
    st.sampled_from(
        [b"00000000005\0", b"          5\0", b"5\0".ljust(12, b"\0"), b"5 ".ljust(12), b"\x80" + bytes(10) + b"\x05"]
    ),
    st.sampled_from([b"", b"dir", b"a/b"]),
    st.sampled_from([b"a.txt", b"a.txt/", b"\xff\xfe.txt", b"n" * 100]),
)
def test_hand_made_headers_read_as_in_tarfile(kind: bytes, size: bytes, prefix: bytes, name: bytes) -> None:
    content = header(name, size, kind, prefix) + data(b"hello") + SMALL + END
    damage = walked(content)[1]
    scanned, trained = ours(content), read_by_tarfile(content)
    assert scanned == trained or (damage is not None and damage.fatal)


def test_old_signed_checksums_hold() -> None:
    block = bytearray(header(b"caf\xe9.txt"))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(byte - 256 * (byte > 127) for byte in block)
    assert [name for name, _, _ in ours(bytes(block) + data(b"hello") + END)] == ["caf\udce9.txt"]


@pytest.mark.parametrize(
    ("content", "reason", "fatal", "n_members"),
    [
        (b"", "tar_damaged", True, 0),
        (b"\x1f\x8b" + bytes(600), "tar_damaged", True, 0),
        (b"<html>not found</html>", "tar_damaged", True, 0),
        (SMALL, "tar_unterminated", False, 1),
        (SMALL[:515], "tar_truncated", True, 0),
        (SMALL[:600], "tar_unterminated", False, 1),  # only padding is missing
        (SMALL + SMALL[:512], "tar_truncated", True, 1),
        (SMALL + SMALL[:100], "tar_truncated", True, 1),
        (SMALL + b"garbage!" * 64 + SMALL + END, "tar_damaged", True, 1),
        (SMALL + END + SMALL + END, "tar_trailing_data", False, 1),
        (SMALL + header(kind=b"S") + END, "tar_unsupported", True, 1),
        (SMALL + header(size=b"-0000000005\0") + END, "tar_unsupported", True, 1),
        (SMALL + header(size=b"1_000\0".ljust(12, b"\0")) + END, "tar_unsupported", True, 1),
        (SMALL + header(size=b"\xff" * 12) + END, "tar_unsupported", True, 1),
        (SMALL + header(size=b"\x80" + b"\xff" * 11) + END, "tar_truncated", True, 1),
        (SMALL + header(kind=b"x") + data(b"12 path=a\n??") + SMALL, "tar_unsupported", True, 1),
        (
            SMALL + header(kind=b"g", size=b"%011o\0" % 13) + data(b"13 path=a.jpg"[:12] + b"\n") + SMALL,
            "tar_unsupported",
            True,
            1,
        ),
        (SMALL + header(kind=b"L") + data(b"abcde") + END, "tar_damaged", True, 1),
        (SMALL + (header(kind=b"L") + data(b"abcde")) * 2 + SMALL + END, "tar_unsupported", True, 1),
        (SMALL + header(kind=b"L", size=b"%011o\0" % (MAX_EXTENSION_BYTES + 1)), "tar_unsupported", True, 1),
        (SMALL + header(kind=b"L") + data(b"abcde.png") + SMALL + END, "tar_unsupported", True, 1),
        (
            SMALL + header(kind=b"x", size=b"%011o\0" % 10) + data(b"10 path=a\n10 path=b\n") + SMALL,
            "tar_unsupported",
            True,
            1,
        ),
    ],
)
def test_damage_is_named_and_ends_the_walk(content: bytes, reason: str, fatal: bool, n_members: int) -> None:
    members, damage = walked(content)
    assert damage is not None
    assert (damage.reason, damage.fatal, len(members)) == (reason, fatal, n_members)
    assert f"at byte {damage.offset}" in damage.detail


def test_damage_counts_the_bytes_left_unread() -> None:
    content = SMALL * 3 + b"x" * 2000
    damage = walked(content)[1]
    assert damage is not None
    assert (damage.offset, damage.n_unread) == (len(SMALL) * 3, 2000)


def test_what_is_no_tar_is_recognised() -> None:
    damage = walked(b"\xff\xd8\xff\xe0" + bytes(2000))[1]
    assert damage is not None
    assert "JPEG" in damage.detail


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return header(b"pax", b"%011o\0" % len(records), kind) + data(records)


@pytest.mark.parametrize(
    "records",
    [
        b"20 path=longer.jpg\n\n"[:19],
        b"",
        b"9 a=b\n",
        b"0 path=a\n",
        b"99 path=a\n",
        b"10 path=a\nx",
        b"9999999999999 path=a\n",
        b"22 GNU.sparse.major=1\n",
        b"12 size=1e3\n",
        b"11 size=-1\n",
        b"10 size=5\n",
        b"13 path=b.txt\n",
        b"13 path=b.txt\n13 path=c.txt\n",
    ],
)
def test_pax_records_read_as_in_tarfile_or_stop(records: bytes) -> None:
    content = pax(records) + SMALL + END
    damage = walked(content)[1]
    assert ours(content) == read_by_tarfile(content) or (damage is not None and damage.fatal)


def test_a_harmless_global_header_goes_with_the_member_after_it() -> None:
    content = SMALL + pax(b"13 comment=x\n", b"g") + SMALL + END
    first, second = walked(content)[0]
    assert second.start == first.end
    assert second.offset == second.start + 512 * 3


def test_names_have_a_limit() -> None:
    name = b"n" * MAX_NAME_BYTES + b".t"
    content = header(b"L", b"%011o\0" % len(name), b"L") + data(name) + SMALL + END
    assert walked(content)[1] is not None


def test_storable_spells_out_what_utf8_cannot_hold() -> None:
    assert storable("plain é") == "plain é"
    assert storable(b"a\xff".decode("utf-8", "surrogateescape")) == "a\\udcff"


# Grouping

pieces = st.sampled_from(["a", "b", "A", ".", "/", "_", "__", "\n", "..", ".jpg", ".JPG", ".txt", ".png", ".json", "é"])
odd_names = st.lists(pieces, min_size=1, max_size=6).map("".join)
usual_names = st.tuples(
    st.sampled_from(["a", "b", "d/a", "a.b/c", "__m__", "__m__/a"]),
    st.sampled_from(["jpg", "png", "JPG", "txt", "json", "seg.png", "__url__", "__key__", "__bad__", "webp"]),
).map(".".join)


@given(st.text(st.sampled_from("ab./\n_"), max_size=12))
@example("a/.hidden")
@example("/.x")
@example("x.y\nb/c.jpg")
@settings(max_examples=500, deadline=None)
def test_split_name_is_webdatasets_expression(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tariterators = pytest.importorskip("webdataset.tariterators")
    prefix, suffix = tariterators.base_plus_ext(name)
    assert split_name(name) == (None if prefix is None else (prefix, suffix))


def test_split_name_is_fast_where_the_expression_is_not() -> None:
    assert split_name("a/" * 2000 + "b" * 2000) is None


@pytest.fixture(scope="module")
def open_clip_data() -> Any:
    """open_clip's own reading of tars into samples."""
    pytest.importorskip("pandas", reason="open_clip_train.data imports pandas")
    ensure_torchvision_importable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("open_clip_train.data")


def pairs(samples: Sequence[dict[str, bytes]]) -> list[tuple[bytes, bytes]]:
    """Keep what open_clip trains on: txt, and the first of jpg, png, jpeg, webp."""
    found = []
    for sample in samples:
        image = next((sample[ext] for ext in ("jpg", "png", "jpeg", "webp") if ext in sample), None)
        if image is not None and "txt" in sample:
            found.append((image, sample["txt"]))
    return found


@given(st.lists(odd_names | usual_names, max_size=12))
@example(["k.txt", "k.__url__", "k.jpg", "k.txt"])
@example(["k.jpg", "k.__key__", "k.txt"])
@settings(max_examples=150, deadline=None)
def test_samples_are_the_pairs_that_open_clip_trains_on(open_clip_data: Any, members: list[str]) -> None:
    content = tar_bytes([(name, b"%d" % n) for n, name in enumerate(members)], tar_format=tarfile.PAX_FORMAT)
    files = open_clip_data.tar_file_expander([{"url": "x", "stream": io.BytesIO(content)}], eof_value=None)
    theirs = pairs(list(open_clip_data.group_by_keys_nothrow(files)))
    samples = [found for found in walk_samples(content) if isinstance(found, Sample)]
    as_bytes = [
        {ext: content[m.offset : m.offset + m.size] for ext, m in sample.members.items()}
        for sample in samples
        if "__bad__" not in sample.members  # open_clip drops these; scanning them as well does no harm
    ]
    assert pairs(as_bytes) == theirs
    assert [sample.ordinal for sample in samples] == list(range(len(samples)))


def kinds(members: list[tuple[str, bytes]]) -> list[str]:
    found = walk_samples(tar_bytes(members))
    return [f"{x.key}:{'+'.join(x.members)}" if isinstance(x, Sample) else type(x).__name__ for x in found]


def test_grouping_by_example() -> None:
    assert kinds([("a.JPG", b""), ("a.txt", b""), ("b.json", b""), ("a.txt", b"")]) == ["a:jpg+txt", "b:json", "a:txt"]
    assert kinds([("a.txt", b"1"), ("a.txt", b"2")]) == ["a:txt", "a:txt"]
    assert kinds([("a.jpg", b""), ("__meta__", b""), ("a.txt", b""), ("README", b"")]) == [
        "Stray",
        "Stray",
        "a:jpg+txt",
    ]
    assert kinds([("d.1/a.seg.png", b""), ("d.1/a.txt", b"")]) == ["d.1/a:seg.png+txt"]


def test_damage_comes_after_the_sample_it_cut_off() -> None:
    content = tar_bytes([("a.jpg", b"x"), ("a.txt", b"y" * 600)])[: 512 * 4]
    sample, damage = walk_samples(content)
    assert isinstance(sample, Sample)
    assert list(sample.members) == ["jpg"]
    assert isinstance(damage, Damage)


def test_a_sample_takes_a_bounded_number_of_members() -> None:
    found = list(walk_samples(tar_bytes([(f"a.{n}", b"") for n in range(MAX_MEMBERS_PER_SAMPLE + 5)])))
    assert sum(isinstance(x, Stray) for x in found) == 5
    (sample,) = (x for x in found if isinstance(x, Sample))
    assert len(sample.members) == MAX_MEMBERS_PER_SAMPLE


def test_keys_that_are_not_utf8_stay_apart() -> None:
    content = header(b"\xff.txt") + data(b"hello") + header(b"\xfe.jpg") + data(b"hello") + END
    first, second = (x for x in walk_samples(content) if isinstance(x, Sample))
    assert (first.key, second.key) == ("\\udcff", "\\udcfe")
