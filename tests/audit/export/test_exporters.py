"""What every export has to do, and what each of them writes."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from roclip_audit.audit.decisions import decide
from roclip_audit.audit.export import EXPORTERS, ExportReport, ExportRequest, build_exporter, export
from roclip_audit.audit.export.base import OWN_OPTIONS
from roclip_audit.audit.ingest import ingest
from roclip_audit.audit.notebook import open_audit
from roclip_audit.audit.select import write_selection
from roclip_audit.cli.main import app
from roclip_audit.core.errors import ConfigError, StoreError, StoreLockedError
from roclip_audit.core.progress import SilentReporter
from roclip_audit.core.run import RunFolder
from roclip_audit.core.schema import PAIRS
from roclip_audit.core.subset import SUBSET_DTYPE
from roclip_audit.core.tables import arrow_schema
from tests.audit.exportkit import ALIGNED_DIM, IMAGE_DIM, TEXT_DIM, drawn_run, hold_lock, vector_run
from tests.audit.runkit import HOSTILE, fake, random_shards, shard_id, uid_of

FORMATS = sorted(EXPORTERS)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of 12 drawn pairs in two shards; not to be changed."""
    return drawn_run(tmp_path_factory.mktemp("drawn"))


def ask(format: str, folder: Path, **what: object) -> ExportRequest:
    """Return a request with whatever the format cannot do without."""
    request = ExportRequest(out=folder / f"out.{format}", images=folder / "pictures" if format == "viewer" else None)
    return replace(request, **what)  # type: ignore[arg-type]


def write(run: RunFolder, format: str, request: ExportRequest) -> ExportReport:
    return export(run, format, request, SilentReporter())


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("format", FORMATS)
def test_an_exporter_is_what_the_table_says(format: str) -> None:
    exporter = build_exporter(format)
    assert exporter.name == format
    assert EXPORTERS[format].summary.startswith(f"{exporter.makes}: ")
    assert exporter.options <= set(OWN_OPTIONS)
    assert (type(exporter).__doc__ or "").endswith(".")
    assert f"## `{format}`" in (Path(__file__).parents[3] / "docs" / "export.md").read_text()


@pytest.mark.parametrize("format", FORMATS)
def test_it_writes_what_is_selected_and_nothing_else(format: str, drawn: RunFolder, tmp_path: Path) -> None:
    before = listing(drawn.root)
    n_selected = len(open_audit(drawn.root).suspicion("ordinal < 4"))
    report = write(drawn, format, ask(format, tmp_path, where="ordinal < 4"))
    assert (report.format, report.out, report.n_pairs) == (format, tmp_path / f"out.{format}", n_selected)
    assert report.out.is_file() if build_exporter(format).makes == "file" else report.out.is_dir()
    assert report.n_bytes > 0
    expected = {f"out.{format}"} | ({"pictures"} if format == "viewer" else set())
    assert {path.name for path in tmp_path.iterdir()} == expected
    assert listing(drawn.root) == before


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_run_gives_the_same_bytes(format: str, drawn: RunFolder, tmp_path: Path) -> None:
    write(drawn, format, ask(format, tmp_path))
    first = listing(tmp_path)
    write(drawn, format, ask(format, tmp_path, force=True))
    assert listing(tmp_path) == first


@pytest.mark.parametrize("format", FORMATS)
def test_it_replaces_nothing_unless_told_to(format: str, drawn: RunFolder, tmp_path: Path) -> None:
    request = ask(format, tmp_path)
    write(drawn, format, request)
    first = listing(tmp_path)
    with pytest.raises(ConfigError, match="--force"):
        write(drawn, format, request)
    assert listing(tmp_path) == first
    assert write(drawn, format, replace(request, force=True, where="ordinal < 2")).n_pairs == 4
    assert {path.name for path in tmp_path.iterdir()} <= {f"out.{format}", "pictures"}


@pytest.mark.parametrize("format", FORMATS)
def test_force_replaces_no_folder_of_somebody_else(format: str, drawn: RunFolder, tmp_path: Path) -> None:
    request = ask(format, tmp_path, force=True)
    foreign = request.images if format == "viewer" else request.out
    assert foreign is not None
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years")
    with pytest.raises(ConfigError):
        write(drawn, format, request)
    assert listing(foreign) == {"thesis.tex": b"years"}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "where", ["true) union (select 1", "nope = 1", "", "uid", "(select count(*) > 0 from read_csv('x'))"]
)
def test_a_wrong_condition_leaves_nothing_behind(format: str, where: str, drawn: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        write(drawn, format, ask(format, tmp_path, where=where))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", FORMATS)
def test_options_of_other_formats_are_refused(format: str, drawn: RunFolder, tmp_path: Path) -> None:
    values = {"remove": "true", "remove_unscored": True, "raw": True, "space": "aligned", "max_images": 3}
    for name in values.keys() - build_exporter(format).options:
        with pytest.raises(ConfigError, match="is for"):
            write(drawn, format, ask(format, tmp_path, **{name: values[name]}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", FORMATS)
def test_hostile_text_goes_where_text_goes_and_nowhere_else(format: str, tmp_path: Path) -> None:
    pairs = [fake(text, key=f"../../{text[:50]}", url=text[:200]) for text in HOSTILE.values()]
    run = vector_run(tmp_path / "audit", {"00000.tar": pairs})
    (tmp_path / "out").mkdir()
    report = write(run, format, ask(format, tmp_path / "out"))
    assert report.n_pairs == len(HOSTILE)
    for path in (tmp_path / "out").rglob("*"):
        assert re.fullmatch(r"[\w.-]+", path.name)
    for path in (tmp_path / "out").rglob("*.parquet"):
        assert sorted(pq.read_table(path)["caption"].to_pylist()) == sorted(HOSTILE.values())


def test_nothing_is_replaced_in_the_run_folder(run: RunFolder) -> None:
    before = run.database.read_bytes()
    with pytest.raises(ConfigError, match="run folder"):
        write(run, "csv", ExportRequest(out=run.database, force=True))
    assert run.database.read_bytes() == before


def test_parquet_is_the_view(shared_run: RunFolder, tmp_path: Path) -> None:
    report = write(shared_run, "parquet", ask("parquet", tmp_path))
    assert pl.read_parquet(report.out).equals(open_audit(shared_run.root).suspicion())
    assert "without evidence" in report.notes[0]


def test_csv_starts_no_formula_unless_raw(hostile_run: RunFolder, tmp_path: Path) -> None:
    safe, raw = (
        list(csv.reader(io.StringIO((tmp_path / name).read_bytes().decode(), newline="")))
        for name, as_is in (("safe.csv", False), ("raw.csv", True))
        if write(hostile_run, "csv", ExportRequest(out=tmp_path / name, raw=as_is))
    )
    numbers = {i for i, name in enumerate(safe[0]) if name.startswith(("rival_margin", "cosine", "dao", "lid"))}
    texts = [cell for row in safe for i, cell in enumerate(row) if i not in numbers]
    assert not [cell for cell in texts if cell[:1] in set("=+-@\t\r")]
    assert {row[safe[0].index("caption")] for row in raw[1:]} == set(HOSTILE.values())


def uids_of(path: Path) -> list[str]:
    array = np.load(path)
    assert array.dtype == SUBSET_DTYPE == np.dtype("u8,u8")
    assert (np.sort(array) == array).all()
    return [f"{first:016x}{last:016x}" for first, last in array.tolist()]


def test_a_keep_list_is_what_curate_keeps(run: RunFolder, tmp_path: Path) -> None:
    decide(run, uid_of("00000.tar", 1), "drop")
    decide(run, uid_of("00001.tar", 2), "keep")
    for name, remove_unscored in (("all", False), ("scored", True)):
        selection, out = tmp_path / f"{name}.parquet", tmp_path / f"{name}.npy"
        write_selection(run, "suspicion > 0.4", selection, remove_unscored=remove_unscored)
        rows = pq.read_table(selection).to_pylist()
        write(run, "datacomp", ExportRequest(out=out, remove="suspicion > 0.4", remove_unscored=remove_unscored))
        assert uids_of(out) == sorted(row["uid"] for row in rows if row["keep"])


def test_a_keep_list_of_a_condition_leaves_out_what_was_decided(run: RunFolder, tmp_path: Path) -> None:
    dropped = uid_of("00000.tar", 1)
    decide(run, dropped, "drop")
    report = write(run, "datacomp", ask("datacomp", tmp_path, where="shard = '00000.tar'"))
    expected = set(open_audit(run.root).suspicion("shard = '00000.tar'")["uid"]) - {dropped}
    assert set(uids_of(report.out)) == expected
    with pytest.raises(ConfigError, match="one of them"):
        write(run, "datacomp", ask("datacomp", tmp_path, where="true", remove="true"))


def give_uids(run: RunFolder, shard: str, uids: dict[int, str]) -> None:
    """Let pairs carry uids of their own, as the index stage found them; the database keeps its own."""
    path = run.file("pairs", f"{shard_id(shard)}.parquet")
    rows = pq.read_table(path).to_pylist()
    for ordinal, uid in uids.items():
        rows[ordinal] |= {"uid": uid, "uid_given": True}
    schema = arrow_schema([c for c in PAIRS if c.name not in {"width", "height", "dhash"}])
    pq.write_table(pq.read_table(path).from_pylist(rows, schema=schema), path)


def test_a_copied_uid_brings_no_removed_pair_back(tmp_path: Path) -> None:
    """A uid that a kept and a removed pair carry would make the resharder copy both."""
    run = vector_run(tmp_path / "audit", random_shards(n_shards=1, n_pairs=8, seed=2))
    own = [uid_of("00000.tar", i) for i in range(8)]
    give_uids(run, "00000.tar", {i: own[i] for i in range(8)} | {5: own[2], 7: own[6]})
    report = write(run, "datacomp", ask("datacomp", tmp_path, where="ordinal <> 5"))
    listed = uids_of(report.out)
    assert own[2] not in listed
    assert listed.count(own[6]) == 1
    assert "carried by several pairs" in report.notes[0]


def test_pairs_that_the_resharder_cannot_find_are_counted(shared_run: RunFolder, tmp_path: Path) -> None:
    report = write(shared_run, "datacomp", ask("datacomp", tmp_path))
    assert report.n_pairs == 60
    assert "60 of the pairs have no uid in their shard" in report.notes[-1]


@pytest.mark.parametrize("space", ["encoder", "aligned"])
def test_embeddings_and_metadata_are_row_for_row(space: str, drawn: RunFolder, tmp_path: Path) -> None:
    report = write(drawn, "clip-retrieval", ask("clip-retrieval", tmp_path, where="ordinal % 2 = 1", space=space))
    images = np.load(report.out / "img_emb" / "img_emb_0.npy")
    texts = np.load(report.out / "text_emb" / "text_emb_0.npy")
    rows = pl.read_parquet(report.out / "metadata" / "metadata_0.parquet")
    dims = (IMAGE_DIM, TEXT_DIM) if space == "encoder" else (ALIGNED_DIM, ALIGNED_DIM)
    assert (images.dtype, texts.dtype) == (np.float16, np.float16)
    assert (images.shape, texts.shape) == ((len(rows), dims[0]), (len(rows), dims[1]))
    audit, uids = open_audit(drawn.root), rows["uid"].to_list()
    np.testing.assert_allclose(images, audit.embeddings(uids, space=space), atol=1e-3)  # type: ignore[arg-type]
    np.testing.assert_allclose(texts, audit.embeddings(uids, kind="text", space=space), atol=1e-3)  # type: ignore[arg-type]
    assert rows["image_path"].to_list() == uids
    assert rows["ordinal"].to_list() == [i for n in (6, 6) for i in range(n) if i % 2]
    about = json.loads((report.out / "export.json").read_text())
    assert about["space"].startswith(f"{space} of embedded: ")


def test_embeddings_of_another_scan_are_refused(tmp_path: Path) -> None:
    run = drawn_run(tmp_path)
    array = next((run.root / "embeddings").glob("00000-*.text.npy"))
    np.save(array, np.load(array)[:-1])
    with pytest.raises(StoreError, match="another scan"):
        write(run, "clip-retrieval", ask("clip-retrieval", tmp_path))
    with hold_lock(run), pytest.raises(StoreLockedError):
        write(run, "clip-retrieval", ask("clip-retrieval", tmp_path))
    assert not (tmp_path / "out.clip-retrieval").exists()


def test_pictures_are_ours_and_where_the_table_says(drawn: RunFolder, tmp_path: Path) -> None:
    report = write(drawn, "viewer", ask("viewer", tmp_path))
    rows = pl.read_parquet(report.out)
    assert rows.columns[0] == "filepath"
    assert "q_by_view" not in rows.columns
    for path, uid in rows.select("filepath", "uid").iter_rows():
        assert Path(path) == tmp_path / "pictures" / uid[:2] / f"{uid}.png"
        with Image.open(path) as image:
            assert (image.format, image.info) == ("PNG", {})
            assert image.tobytes() == open_audit(drawn.root).image(uid).tobytes()


def test_a_picture_that_cannot_be_read_is_said_and_ends_with_3(tmp_path: Path) -> None:
    run = drawn_run(tmp_path)
    (tmp_path / "shards" / "00001.tar").unlink()
    arguments = ["export", "viewer", str(tmp_path / "t.parquet"), "--audit", str(run.root), "--images"]
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "p"), "--json", "--quiet"])
    assert done.exit_code == 3
    assert json.loads(done.stdout)["n_unreadable"] == 6
    rows = pl.read_parquet(tmp_path / "t.parquet").filter(pl.col("shard") == "00001.tar")
    assert rows["filepath"].null_count() == 6
    assert rows["image_note"].unique().to_list() == ["shard not found"]


def test_too_many_pictures_are_refused_before_any(drawn: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="12 pairs are selected, at most 5 pictures"):
        write(drawn, "viewer", ask("viewer", tmp_path, max_images=5))
    with pytest.raises(ConfigError, match="--images DIR"):
        write(drawn, "viewer", ExportRequest(out=tmp_path / "x.parquet"))
    assert list(tmp_path.iterdir()) == []


def test_an_empty_selection_is_an_empty_export(drawn: RunFolder, tmp_path: Path) -> None:
    for format in FORMATS:
        assert write(drawn, format, ask(format, tmp_path, where="false")).n_pairs == 0
    assert np.load(tmp_path / "out.clip-retrieval" / "img_emb" / "img_emb_0.npy").shape == (0, IMAGE_DIM)
    assert uids_of(tmp_path / "out.datacomp") == []


def test_the_command_reports_and_refuses(shared_run: RunFolder, tmp_path: Path) -> None:
    arguments = ["export", "csv", str(tmp_path / "a.csv"), "--audit", str(shared_run.root)]
    first, again = (CliRunner().invoke(app, arguments) for _ in range(2))
    assert (first.exit_code, again.exit_code) == (0, 2)
    assert first.stdout.startswith(f"written  {tmp_path / 'a.csv'}, ")
    unknown = CliRunner().invoke(app, ["export", "xlsx", str(tmp_path / "x"), "--audit", str(shared_run.root)])
    assert unknown.exit_code == 2
    missing = CliRunner().invoke(app, ["export", "csv", str(tmp_path / "x"), "--audit", str(tmp_path / "none")])
    assert missing.exit_code == 4


def test_ingest_again_changes_no_export(run: RunFolder, tmp_path: Path) -> None:
    write(run, "parquet", ask("parquet", tmp_path))
    ingest(run)
    write(run, "parquet", ExportRequest(out=tmp_path / "again.parquet"))
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "out.parquet").read_bytes()
