"""The guard against a real server: what is taken, what is refused and why, and that nothing private is reached."""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roclip_audit.core.fetched import FETCH_REASONS
from roclip_audit.sanitize.fetch import guard
from roclip_audit.sanitize.fetch.guard import Limits, Refused, download
from tests.sanitize.fetch.webkit import Web, picture

HERE = Limits(max_bytes=300_000, timeout_s=20, deadline_s=30, allowed=("127.0.0.1/32",))


def refusal(url: str, limits: Limits = HERE, **options: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        download(url, limits, **options)
    return caught.value


def test_a_good_picture_comes_as_it_is(web: Web) -> None:
    found = download(web.url("good/3.png"), HERE)
    assert found.content == picture(3)
    assert found.url == web.url("good/3.png")


def test_a_redirect_to_an_allowed_place_is_followed(web: Web) -> None:
    found = download(web.url("redirect/x?to=" + quote(web.url("good/5.png"))), HERE)
    assert (found.content, found.url) == (picture(5), web.url("good/5.png"))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing/1", "http_gone"),
        ("error/1", "http_error"),
        ("page/1", "not_an_image"),
        ("disguised/1", "not_an_image"),
        ("broken/1", "truncated"),
        ("truncated/1", "truncated"),
        ("announced/1", "too_large"),
        ("endless/1", "too_large"),
        ("loop/1", "redirects"),
        ("optout/1?tag=noai", "opted_out"),
        ("optout/1?tag=roclip-audit:%20noindex", "opted_out"),
        ("optout/1?tag=max-snippet:%203,%20noimageai", "opted_out"),
        ("redirect/1?to=file:///etc/passwd", "redirects"),
        ("redirect/1?to=ftp://127.0.0.1/x", "url_scheme"),
        ("redirect/1?to=http://169.254.169.254/latest/meta-data/", "address_refused"),
        ("redirect/1?to=http://10.0.0.1/", "address_refused"),
        ("redirect/1?to=http://[::1]/", "address_refused"),
    ],
)
def test_what_is_not_taken_has_a_reason(web: Web, path: str, reason: str) -> None:
    assert refusal(web.url(path)).reason == reason
    assert reason in FETCH_REASONS


def test_opt_outs_of_others_are_not_ours(web: Web) -> None:
    assert download(web.url("optout/4?tag=otherbot:%20noai"), HERE).content == picture(4)


def test_a_redirect_to_another_loopback_address_is_a_new_check(web: Web) -> None:
    """127.0.0.1 is allowed here and 127.0.0.2 is not: the server there would answer."""
    refused = refusal(web.url("redirect/x?to=" + quote(web.url("good/5.png", host="127.0.0.2"))))
    assert (refused.reason, refused.detail) == ("address_refused", f"127.0.0.2 port {web.port}")
    assert web.requests == ["/redirect/x"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0", "[::1]"])
def test_no_spelling_of_this_machine_is_reached_unless_allowed(web: Web, host: str) -> None:
    refused = refusal(f"http://{host}:{web.port}/good/1.png", HERE._replace(allowed=()))
    assert refused.reason in ("address_refused", "unresolved")  # a resolver may not know the odder spellings
    assert web.requests == []


def test_a_name_is_resolved_once_and_the_answer_is_what_is_connected_to(web: Web) -> None:
    """DNS rebinding: a second question would get another answer, and is not asked."""
    answers = iter([[(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", web.port))]])
    found = download(f"http://rebinding.example:{web.port}/good/7.png", HERE, resolve=lambda *_, **__: next(answers))
    assert found.content == picture(7)


def test_one_private_address_among_public_ones_refuses_the_name(web: Web) -> None:
    def resolve(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ("93.184.216.34", "127.0.0.1")]

    refused = refusal("http://mixed.example/x", HERE._replace(allowed=()), resolve=resolve)
    assert (refused.reason, refused.detail) == ("address_refused", "127.0.0.1 port 80")


def test_a_name_without_address_is_unresolved() -> None:
    def resolve(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        raise socket.gaierror(-2, "Name or service not known")

    assert refusal("http://gone.example/x", resolve=resolve).reason == "unresolved"


def test_a_closed_port_is_unreachable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        assert refusal(f"http://127.0.0.1:{port}/x").reason == "unreachable"


@pytest.mark.parametrize(("path", "limits"), [("drip/1", (20, 0.7)), ("silent/1", (0.5, 30)), ("silent/1", (20, 0.7))])
def test_neither_silence_nor_dripping_holds_a_thread(web: Web, path: str, limits: tuple[float, float]) -> None:
    started = time.monotonic()
    refused = refusal(web.url(path), HERE._replace(timeout_s=limits[0], deadline_s=limits[1]))
    assert refused.reason == "timeout"
    assert time.monotonic() - started < 15  # the server would go on for minutes


def test_something_that_is_not_http_is_no_crash(web: Web) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        import threading

        def talk() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"SSH-2.0-x\r\n")

        thread = threading.Thread(target=talk)
        thread.start()
        refused = refusal(f"http://127.0.0.1:{server.getsockname()[1]}/x")
        thread.join(10)
    assert refused.reason in ("protocol", "truncated")


def test_proxies_of_the_environment_are_not_used(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert download(web.url("good/1.png"), HERE).content == picture(1)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.100.100.200", False),
        ("192.0.0.192", False),
        ("168.63.129.16", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fec0::1", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b:1::a00:1", False),
        ("2002:7f00:1::", False),
        ("2001:0:0:0:0:0:80ff:fffe", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert guard.is_public(ipaddress.ip_address(address)) is public


def test_ports_below_1024_are_the_webs_only() -> None:
    public = ipaddress.ip_address("93.184.216.34")
    assert [guard.is_allowed(public, port, ()) for port in (22, 25, 80, 443, 8080)] == [False, False, True, True, True]


@given(st.text(max_size=60), st.sampled_from(["http://", "https://", "//", ""]))
def test_any_text_is_a_url_on_the_wire_or_refused(text: str, scheme: str) -> None:
    try:
        wire = guard.ascii_url(scheme + text)
    except Refused as refused:
        wire = refused.reason
    assert wire in FETCH_REASONS or re.fullmatch(r"[\x21-\x7e]+", wire)


@pytest.mark.parametrize(
    ("url", "wire"),
    [
        ("http://bücher.example/ä b?q=ü#x", "http://xn--bcher-kva.example/%C3%A4%20b?q=%C3%BC"),
        ("https://a.example:8443/%20x", "https://a.example:8443/%20x"),
        ("http://[2001:db8::1]:81/x", "http://[2001:db8::1]:81/x"),
    ],
)
def test_urls_as_they_go_over_the_wire(url: str, wire: str) -> None:
    assert guard.ascii_url(url) == wire


@pytest.mark.parametrize("kind", ["md5", "sha1", "sha256", "sha512"])
def test_every_kind_of_published_hash_is_compared(kind: str) -> None:
    import hashlib

    published = f"{kind}:{hashlib.new(kind, b'x').hexdigest()}"
    assert guard.hash_mismatch(b"x", published) is None
    assert guard.hash_mismatch(b"y", published) == f"sha256 {hashlib.sha256(b'y').hexdigest()}"


def test_the_guard_runs_without_the_rest() -> None:
    """Another interpreter loads it by its path: nothing but the standard library may be imported."""
    import ast
    import sys
    from pathlib import Path

    tree = ast.parse(Path(guard.__file__).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= set(sys.stdlib_module_names)
