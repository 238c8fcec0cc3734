"""What a hostile caption, another page, another host or a stranger can do with the review: nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from roclip_audit.audit.decision_log import read_log
from roclip_audit.audit.review.app import make_app
from roclip_audit.audit.review.desk import Desk
from roclip_audit.audit.review.guard import HEADERS, Access
from roclip_audit.audit.review.server import ReviewSettings, serve
from roclip_audit.core.errors import ConfigError
from roclip_audit.core.run import RunFolder
from tests.audit.review.reviewkit import BASE, HOSTILE, build_run, client_of
from tests.audit.runkit import uid_of

N_PAIRS = 5
UID = uid_of("00000.tar", 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return build_run(tmp_path_factory.mktemp("security"), n_pairs=N_PAIRS, captions=HOSTILE)


OUR_TAGS = frozenset({
    "a", "article", "b", "bdi", "body", "button", "code", "dd", "details", "dialog", "div", "dl", "dt", "figure",
    "form", "h1", "h2", "head", "header", "html", "img", "input", "kbd", "label", "li", "link", "main", "meta", "nav",
    "ol", "option", "p", "progress", "script", "section", "select", "span", "summary", "time", "title", "ul",
})  # fmt: skip


class Reader(HTMLParser):
    """Reads a page as a browser does, and notes what could do something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.targets: set[str] = set()
        self.scripts: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.add(tag)
        values = dict(attrs)
        self.attributes |= values.keys()
        self.targets |= {value or "" for name, value in attrs if name in {"href", "src", "action", "formaction"}}
        if tag == "script":
            self.scripts.append(values.get("src"))


def outsider(run: RunFolder, access: Access | None = None) -> TestClient:
    return TestClient(make_app(Desk(run), access or Access(), reviewer="x"), base_url=BASE, follow_redirects=False)


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_hostile_caption_is_only_ever_text(run: RunFolder, number: int) -> None:
    client = client_of(run)
    uid = uid_of("00000.tar", N_PAIRS + number)
    pages = [client.get(path).text for path in ("/", f"/pair/{uid}", f"/?like={uid}", "/?show=all&sort=caption")]
    for page in pages:
        assert len(page) < 200_000
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
        assert re.findall(r"<bdi>49", page) == []
        reader = Reader()
        reader.feed(page)
        assert reader.scripts == ["/static/review.js"]
        assert {name for name in reader.attributes if name.startswith("on") or name in {"style", "srcdoc"}} == set()
        assert reader.tags <= OUR_TAGS
        assert all(target.startswith(("/", "#")) and target[:2] != "//" for target in reader.targets)
    assert f'data-uid="{uid}"' in pages[1]


def test_every_answer_has_the_headers(run: RunFolder) -> None:
    client = client_of(run)
    answers = [client.get(path) for path in ("/", f"/image/{UID}/thumb", "/static/review.js", "/nothing", "/count")]
    for answer in [*answers, outsider(run).get("/"), client.post("/undo")]:
        assert HEADERS.items() <= dict(answer.headers).items()
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"].startswith(("no-store", "private"))
        assert answer.headers["content-type"].split(";")[0] in {
            "text/html", "text/plain", "text/javascript", "image/jpeg", "application/json",
        }  # fmt: skip


def test_the_token_opens_once_and_leaves_the_address(run: RunFolder) -> None:
    access = Access()
    client = outsider(run, access)
    assert client.get("/").status_code == 403
    assert client.get("/", params={"token": "guess"}).status_code == 403
    answer = client.get("/", params={"token": access.token, "search": "x"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/?search=x")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert access.token not in answer.headers["set-cookie"]
    assert client.get("/").status_code == 200
    away = client.get(f"{BASE}//evil.example/?token={access.token}")
    assert away.headers["location"] == "/evil.example/"


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "a@b", "10.0.0.1"]
)
def test_another_host_is_refused(run: RunFolder, host: str) -> None:
    access = Access()
    answer = outsider(run, access).get("/", params={"token": access.token}, headers={"host": host})
    assert answer.status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "localhost:9", "[::1]:5"])
def test_our_own_names_are_known(host: str) -> None:
    assert Access().knows_host(host)
    assert not Access(host="0.0.0.0").knows_host("evil.example")
    assert Access(host="0.0.0.0").knows_host("10.1.2.3:8000")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"}, {"origin": "http://127.0.0.1:9999"}, {"origin": "null"},
        {"origin": "null", "sec-fetch-site": "cross-site"}, {"origin": "null", "sec-fetch-site": "same-site"},
        {"origin": "http://127.0.0.1.evil.example"}, {"origin": ""},
    ],
)  # fmt: skip
def test_another_page_cannot_decide(run: RunFolder, headers: dict[str, str]) -> None:
    client = client_of(run)
    for path in ("/decide", "/undo", "/reviewer"):
        answer = client.post(path, json={"uids": [UID], "verdict": "drop"}, headers=headers)
        assert answer.status_code == 403
    assert read_log(run)[0] == []


def test_a_post_without_the_cookie_is_refused(run: RunFolder) -> None:
    answer = outsider(run).post("/decide", json={"uids": [UID], "verdict": "drop"}, headers={"origin": BASE})
    assert answer.status_code == 403
    assert read_log(run)[0] == []


def test_another_page_cannot_load_pictures(run: RunFolder) -> None:
    client = client_of(run)
    for site in ("cross-site", "same-site"):
        headers = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}
        assert client.get(f"/image/{UID}/thumb", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/image/../../etc/passwd/thumb",
     "/image/..%2f..%2fmanifest.json/thumb", "/trigger/..%2f1", "/static//etc/passwd"],
)  # fmt: skip
def test_paths_lead_nowhere_else(run: RunFolder, path: str) -> None:
    answer = client_of(run).get(path)
    assert answer.status_code in {400, 404}
    assert "import" not in answer.text
    assert "root:" not in answer.text


@pytest.mark.parametrize(
    "back", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/\n/x"]
)
def test_a_form_leads_back_to_us(run: RunFolder, back: str) -> None:
    answer = client_of(run).post("/undo", data={"back": back}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_too_much_is_refused(run: RunFolder) -> None:
    assert client_of(run).post("/decide", content=b"x" * (2 << 20)).status_code == 413
    assert client_of(run).request("PUT", "/").status_code == 405


def test_others_are_let_in_only_if_that_is_meant(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--expose"):
        serve(run, ReviewSettings(host="0.0.0.0"), ready=print)
    with pytest.raises(ConfigError, match="cannot listen"):
        serve(run, ReviewSettings(host="192.0.2.1", expose=True), ready=print)
