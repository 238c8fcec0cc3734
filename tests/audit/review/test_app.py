"""The review through its pages and actions: look, filter, decide, undo, come back, curate."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from roclip_audit.audit.decision_log import read_log
from roclip_audit.audit.decisions import decide_all
from roclip_audit.audit.ingest import ingest
from roclip_audit.audit.review.thumbnails import Cache
from roclip_audit.audit.select import write_selection
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.run import RunFolder
from tests.audit.review.reviewkit import HOSTILE, build_run, client_of, post
from tests.audit.runkit import uid_of

UID, OTHER = uid_of("00000.tar", 0), uid_of("00000.tar", 1)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return build_run(tmp_path_factory.mktemp("review"), captions=HOSTILE)


@pytest.fixture
def run(shared: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(shared.root, tmp_path / "audit")
    return RunFolder(tmp_path / "audit")


def decided(run: RunFolder) -> dict[str, str]:
    with open_readonly(run) as connection:
        return dict(connection.execute("select uid, verdict from decisions").fetchall())


def test_look_filter_decide_undo_come_back_curate(run: RunFolder, tmp_path: Path) -> None:
    client = client_of(run)
    first = client.get("/").text
    assert first.count('data-verdict=""') == 60
    assert 'rel="next"' in first
    assert client.get("/count", params={"search": "red"}).json()["count"] > 0
    with open_readonly(run) as connection:
        (flagged,) = connection.execute("select uid from suspicion where fdr <= 0.1 limit 1").fetchall()[0]
    answer = post(client, "/decide", uids=[flagged, UID], verdict="keep", note="fine")
    assert answer["n"] == 2
    assert answer["progress"]["kept"] == 2
    assert answer["progress"]["flagged_decided"] >= 1
    assert decided(run) == {flagged: "keep", UID: "keep"}
    assert f'id="p-{flagged}"' in client.get("/?show=keep").text
    post(client, "/decide", uids=[OTHER], verdict="drop")
    again = client_of(run).get("/?show=drop").text  # another browser, another process
    assert f'id="p-{OTHER}"' in again
    assert 'data-verdict="drop"' in again
    assert post(client, "/undo")["n"] == 1
    assert OTHER not in decided(run)
    report = write_selection(run, "fdr <= 0.1", tmp_path / "selection.parquet")
    assert report.n_spared_by_decision >= 1


def test_forms_work_without_a_script(run: RunFolder) -> None:
    client = client_of(run)
    form = {"uid": UID, "verdict": "drop", "note": "by hand", "back": f"/?show=all#p-{UID}"}
    answer = client.post("/decide", data=form, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/?show=all#p-{UID}")
    assert decided(run) == {UID: "drop"}
    assert "by hand" in client.get(f"/pair/{UID}").text
    client.post("/undo", data={"back": "/"})
    assert decided(run) == {}
    filtered = client.get("/", params={"column": "risk", "operator": ">", "value": "0.9"}, follow_redirects=False)
    assert (filtered.status_code, filtered.headers["location"]) == (303, "/?filter=risk%09%3E%090.9")


def test_a_whole_campaign_is_one_action_and_one_undo(run: RunFolder) -> None:
    client = client_of(run)
    page = client.get("/campaigns").text
    assert "&lt;b&gt;banana&lt;/b&gt;" in page
    assert post(client, "/decide", campaign="1", verdict="drop", suspicious="1")["n"] == 6
    assert post(client, "/decide", campaign="1", verdict="drop")["n"] == 12
    assert set(decided(run).values()) == {"drop"}
    assert post(client, "/undo")["n"] == 12
    assert len(decided(run)) == 6
    assert post(client, "/undo")["n"] == 6
    assert decided(run) == {}
    assert post(client, "/undo") == post(client, "/undo")  # nothing left


def test_reviewers_work_side_by_side(run: RunFolder) -> None:
    anna, ben = client_of(run, reviewer="anna"), client_of(run, reviewer="ben")
    post(anna, "/decide", uids=[UID, OTHER], verdict="drop", note="planted")
    post(ben, "/decide", uids=[UID], verdict="keep", note="no")
    assert post(anna, "/undo") | {"progress": None} == {"n": 1, "left": 1, "progress": None}
    assert decided(run) == {UID: "keep"}
    ben.post("/reviewer", data={"reviewer": "Béla", "back": "/"})
    post(ben, "/decide", uids=[OTHER], verdict="keep")
    assert [one.reviewer for one in read_log(run)[0]] == ["anna", "anna", "ben", "anna", "Béla"]
    history = anna.get(f"/pair/{UID}").text
    assert "by anna" in history
    assert "planted" in history
    assert "by ben" in history


def test_decisions_of_others_and_new_scans_show_up(run: RunFolder) -> None:
    client = client_of(run)
    decide_all(run, [UID], "drop", reviewer="sql")
    assert f'id="p-{UID}"' in client.get("/?show=drop").text
    before = run.database.stat().st_ino
    with run.locked():
        ingest(run)
    assert run.database.stat().st_ino != before
    assert f'id="p-{UID}"' in client.get("/?show=drop").text


def test_pictures_are_drawn_anew(run: RunFolder) -> None:
    client = client_of(run)
    answer = client.get(f"/image/{UID}/thumb")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert Image.open(io.BytesIO(answer.content)).format == "JPEG"
    assert client.get(f"/image/{'f' * 32}/thumb").status_code == 404
    assert client.get(f"/image/{UID}/huge").status_code == 404
    assert client.get("/trigger/1").status_code == 404


def test_a_picture_that_changed_is_not_shown(tmp_path: Path) -> None:
    run = build_run(tmp_path, n_pairs=3)
    shard = tmp_path / "shards" / "00000.tar"
    shard.write_bytes(shard.read_bytes().replace(b"IDAT", b"IDOT"))
    answer = client_of(run).get(f"/image/{UID}/thumb")
    assert answer.status_code == 404
    assert Image.open(io.BytesIO(answer.content)).format == "JPEG"


def test_the_cache_is_bounded() -> None:
    cache = Cache(max_bytes=1000)
    for k in range(50):
        assert cache.get((str(k), "thumb"), lambda: b"x" * 300) == b"x" * 300
        assert cache.n_bytes <= 1000
    assert cache.get(("49", "thumb"), lambda: b"new") == b"x" * 300
    assert cache.get(("big", "thumb"), lambda: b"x" * 5000) == b"x" * 5000
    assert cache.n_bytes <= 1000


@pytest.mark.parametrize(
    "where",
    ["nonsense", "true) union (select 1", "1", "true; drop table pairs", "uid in (select path from read_csv('/x'))",
     "exists (from read_text('/etc/passwd'))", "(", "uid = $1", "copy pairs to '/tmp/x'", "exists (attach 'x')"],
)  # fmt: skip
def test_bad_sql_is_a_sentence_on_the_page(shared: RunFolder, where: str) -> None:
    answer = client_of(shared).get("/", params={"where": where})
    assert answer.status_code == 400
    assert 'role="alert"' in answer.text
    assert "data-grid" in answer.text
    assert "root:" not in answer.text


def test_slow_sql_is_stopped(shared: RunFolder) -> None:
    client = client_of(shared, limit_s=0.3)
    slow = "(select sum(sqrt(a.range * b.range + fdr)) from range(100000) a, range(100000) b) > 0"
    answer = client.get("/", params={"where": slow})
    assert answer.status_code == 400
    assert "took longer" in answer.text
    assert client.get("/").status_code == 200


def test_what_cannot_be_decided_is_said(run: RunFolder) -> None:
    client = client_of(run)
    for body in ({"uids": ["f" * 32], "verdict": "drop"}, {"uids": [UID], "verdict": "explode"}, {"verdict": "drop"},
                 {"campaign": "9", "verdict": "drop"}, {"campaign": "x", "verdict": "drop"}):  # fmt: skip
        answer = client.post("/decide", json=body, headers={"accept": "application/json"})
        assert answer.status_code == 400, body
        assert answer.json()["error"]
    assert client.post("/decide", content=b"[" * 5000, headers={"content-type": "application/json"}).status_code == 400
    assert client.get("/pair/nobody").status_code == 400
    assert client.get("/?after=nobody").status_code == 400
    assert decided(run) == {}


def test_every_page_has_its_labels(shared: RunFolder) -> None:
    """Every field has a label and every picture a text; the page says its language and its title."""
    client: TestClient = client_of(shared)
    for path in ("/", f"/pair/{UID}", "/campaigns"):
        page = client.get(path).text
        assert '<html lang="en">' in page
        for identity in ("search", "show", "sort", "where") if path == "/" else ():
            assert f'<label for="{identity}">' in page
        assert page.count("<img") == page.count(" alt=")
