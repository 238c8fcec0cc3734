"""Lists in every format, sound and hostile: each bad row costs itself."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.fetched import FETCH_REASONS
from roclip_audit.sanitize.fetch.prepare import Prepared, prepare
from roclip_audit.sanitize.fetch.rows import published_hash, url_failure
from roclip_audit.sanitize.fetch.settings import Columns
from roclip_audit.sanitize.fetch.urllist import find_list

ROWS = [{"url": f"http://a.example/{i}.jpg", "caption": f"thing {i}", "licence": "cc0"} for i in range(5)]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows in the format of the name."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
        return path
    if kind == "jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        separator = "\t" if kind == "tsv" else ","
        lines = [separator.join(rows[0]), *(separator.join(str(value) for value in row.values()) for row in rows)]
        text = "\r\n".join(lines) + "\r\n"
    path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())
    return path


def run(tmp_path: Path, spec: Path, *, per_shard: int = 100, **columns: str) -> Prepared:
    return prepare(find_list(str(spec)), Columns(**columns), tmp_path / "out", pairs_per_shard=per_shard)


def accepted(tmp_path: Path) -> list[dict[str, Any]]:
    files = sorted((tmp_path / "out" / "list").glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def rejected(tmp_path: Path) -> list[tuple[int, str]]:
    rows = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    return [(row["list_row"], row["reason"]) for row in rows]


@pytest.mark.parametrize("name", ["l.parquet", "l.csv", "l.tsv", "l.jsonl", "l.csv.gz", "l.tsv.gz", "l.jsonl.gz"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    found = run(tmp_path, write(tmp_path / name, ROWS))
    assert (found.n_rows, found.n_accepted, found.rejected) == (5, 5, {})
    assert accepted(tmp_path) == [{**row, "list_file": name, "list_row": i} for i, row in enumerate(ROWS, 1)]
    assert found.columns == ["licence", "list_file", "list_row"]


def test_datacomp_metadata_keeps_everything(tmp_path: Path) -> None:
    folder = tmp_path / "metadata"
    folder.mkdir()
    for part in range(2):
        rows = [
            {"uid": f"{part:016x}{i:016x}", "url": f"http://d.example/{part}/{i}", "text": "words", "sha256": "ab" * 32,
             "original_width": 640, "clip_b32_similarity_score": 0.25, "face_bboxes": [[0.1, 0.2, 0.3, 0.4]]}
            for i in range(3)
        ]  # fmt: skip
        write(folder / f"{part:02d}.parquet", rows)
    found = run(tmp_path, folder, per_shard=2)
    assert (found.n_accepted, found.n_hashes) == (6, 6)
    row = accepted(tmp_path)[3]
    assert row["uid"] == f"{1:016x}{0:016x}"
    assert (row["caption"], row["published_hash"]) == ("words", "sha256:" + "ab" * 32)
    assert (row["list_original_width"], row["clip_b32_similarity_score"]) == (640, 0.25)
    assert (row["face_bboxes"], row["list_file"], row["list_row"]) == ("[[0.1, 0.2, 0.3, 0.4]]", "01.parquet", 1)


HOSTILE_URLS: dict[str, tuple[object, str]] = {
    "none": (None, "url_missing"),
    "empty": ("  ", "url_missing"),
    "number": (7, "url_missing"),
    "file": ("file:///etc/passwd", "url_scheme"),
    "javascript": ("javascript:alert(1)", "url_scheme"),
    "data": ("data:image/png;base64,AAAA", "url_scheme"),
    "ftp": ("ftp://a.example/x", "url_scheme"),
    "formula": ('=HYPERLINK("http://a.example")', "url_scheme"),
    "formula plus": ("+1+1", "url_scheme"),
    "no scheme": ("a.example/x.jpg", "url_scheme"),
    "100 kB": ("http://a.example/" + "x" * 100_000, "url_too_long"),
    "nul": ("http://a.example/\0x", "url_control"),
    "line break": ("http://a.example/x\r\nHost: evil", "url_control"),
    "escape": ("http://a.example/\x1b[31m", "url_control"),
    "bidi": ("http://a.example/\u202egpj.exe", "url_control"),
    "no host": ("http:///x", "url_invalid"),
    "bad port": ("http://a.example:99999/x", "url_invalid"),
    "bad bracket": ("http://[::1/x", "url_invalid"),
    "host of spaces": ("http://a b/x", "url_invalid"),
    "credentials": ("http://user:secret@a.example/x", "url_credentials"),
    "backslash": ("http://good.example\\@evil.example/", "url_credentials"),
}


@pytest.mark.parametrize("case", HOSTILE_URLS)
def test_hostile_urls_have_a_reason(case: str) -> None:
    url, reason = HOSTILE_URLS[case]
    failure = url_failure(url)
    assert failure is not None
    assert failure.reason == reason
    assert reason in FETCH_REASONS
    assert failure.detail.isprintable()
    assert len(failure.detail) <= 300
    assert "secret" not in failure.detail


@pytest.mark.parametrize("name", ["l.jsonl", "l.parquet"])
def test_bad_rows_are_set_aside_and_the_others_stay(tmp_path: Path, name: str) -> None:
    bad = [url for url, _ in HOSTILE_URLS.values() if not isinstance(url, int)]
    rows = [{"url": url, "caption": "x"} for url in bad] + [dict(ROWS[0], caption="=1+1")]
    found = run(tmp_path, write(tmp_path / name, rows))
    assert (found.n_accepted, found.n_rows) == (1, len(rows))
    assert [reason for _, reason in rejected(tmp_path)] == [
        r for u, r in HOSTILE_URLS.values() if not isinstance(u, int)
    ]
    assert accepted(tmp_path)[0]["caption"] == "=1+1"  # a caption is text: it is escaped where it is shown


def test_lines_that_cannot_be_read(tmp_path: Path) -> None:
    good = json.dumps(ROWS[0]).encode()
    lines = [good, b"not json", b"[1]", b'{"url": "\xff"}', b"[" * 100_000, b'"' + b"x" * 3_000_000 + b'"', b"", good]
    (tmp_path / "l.jsonl").write_bytes(b"\n".join(lines))
    assert run(tmp_path, tmp_path / "l.jsonl").n_accepted == 2
    assert rejected(tmp_path) == [(number, "row_malformed") for number in (2, 3, 4, 5, 6)]


def test_csv_with_quotes_that_never_close_loses_little(tmp_path: Path) -> None:
    lines = ["url,caption", 'http://a.example/1,"one, with comma"', "http://a.example/2", "http://a.example/3,a,b"]
    lines += [f"http://a.example/{i},x" for i in range(10)] + ['http://a.example/q,"open']
    (tmp_path / "l.csv").write_text("\n".join(lines) + "\n" + "".join(f"http://a.example/{i},x\n" for i in range(9000)))
    found = run(tmp_path, tmp_path / "l.csv")
    assert rejected(tmp_path)[:2] == [(2, "row_malformed"), (3, "row_malformed")]
    assert accepted(tmp_path)[0]["caption"] == "one, with comma"
    assert found.n_accepted > 3000  # one field takes at most 131,072 characters along


def test_quotes_of_a_tsv_are_its_captions(tmp_path: Path) -> None:
    (tmp_path / "l.tsv").write_text('url\tcaption\nhttp://a.example/1\tsay "hi\nhttp://a.example/2\t"a ""b"""\n')
    run(tmp_path, tmp_path / "l.tsv")
    assert [row["caption"] for row in accepted(tmp_path)] == ['say "hi', 'a "b"']


def test_text_of_a_parquet_that_is_not_utf8_costs_its_row(tmp_path: Path) -> None:
    good = b"http://a.example/1"
    urls = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"".join(i.to_bytes(4, "little") for i in (0, 18, 36))),
                         pa.py_buffer(good + good[:-1] + b"\xff")]
    )  # fmt: skip
    pq.write_table(pa.table({"url": urls, "caption": ["a", "b"]}), tmp_path / "l.parquet")
    assert run(tmp_path, tmp_path / "l.parquet").n_accepted == 1
    assert rejected(tmp_path) == [(2, "row_malformed")]


def test_columns_with_names_of_img2dataset_are_kept_under_others(tmp_path: Path) -> None:
    row = ROWS[0] | {"key": "k", "status": "s", "exif": "e", "width": 3, "__key__": "x", "a\nb": 1, "list_key": "l"}
    found = run(tmp_path, write(tmp_path / "l.jsonl", [row]))
    kept = accepted(tmp_path)[0]
    assert (kept["list_key"], kept["list_status"], kept["list_exif"]) == ("k", "s", "e")
    assert kept["list_list_key"] == "l"
    assert not {"key", "status", "exif", "width", "__key__", "a\nb"} & set(found.columns)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("AB" * 16, "md5:" + "ab" * 16),
        ("ab" * 20, "sha1:" + "ab" * 20),
        (" " + "ab" * 32, "sha256:" + "ab" * 32),
        ("sha512:" + "ab" * 64, "sha512:" + "ab" * 64),
        (None, None),
        ("", None),
    ],
)
def test_published_hashes_are_told_by_their_length(value: object, expected: str | None) -> None:
    assert published_hash(value, None) == expected


@pytest.mark.parametrize("value", ["xy" * 16, "abc", 7, "md5:" + "ab" * 32, "=1"])
def test_a_hash_that_is_none_sets_the_row_aside(tmp_path: Path, value: object) -> None:
    rows = [ROWS[0] | {"sha256": "ab" * 32}, ROWS[1] | {"sha256": value}]
    run(tmp_path, write(tmp_path / "l.jsonl", rows))
    assert rejected(tmp_path) == [(2, "hash_invalid")]


def test_named_columns_and_missing_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "l.jsonl", [{"link": "http://a.example/1", "words": "x"}])
    assert run(tmp_path, path, url="link", caption="words").n_accepted == 1
    with pytest.raises(ConfigError, match=r"--url-col; the list has link, words"):
        run(tmp_path, path)
    with pytest.raises(ConfigError, match="no column 'nope'"):
        run(tmp_path, path, url="link", caption="nope")


def test_lists_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "l.xlsx").write_bytes(b"x")
    (tmp_path / "l.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"url": "http://a.example/1", "caption": "x"}\n' * 99)[:40])
    write(tmp_path / "bad.jsonl", [{"url": "x", "caption": "y"}])
    for name, message in {
        "none.csv": "no list of URLs",
        "l.xlsx": "unknown ending",
        "l.parquet": "cannot be read",
        "cut.jsonl.gz": "cannot be read",
        "bad.jsonl": r"none of 1 rows can be fetched: url_scheme \(1\)",
    }.items():
        with pytest.raises(ConfigError, match=message):
            run(tmp_path, tmp_path / name)


def test_the_list_is_cut_where_shards_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roclip_audit.sanitize.fetch.prepare.ROWS_PER_FILE", 7)
    rows = [{"url": f"http://a.example/{i}", "caption": "x"} for i in range(20)]
    found = run(tmp_path, write(tmp_path / "l.jsonl", rows), per_shard=3)
    assert found.n_by_file == [6, 6, 6, 2]
    assert found.n_shards(3) == 7
    assert [row["url"] for row in accepted(tmp_path)] == [row["url"] for row in rows]
