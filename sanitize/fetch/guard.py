"""Download one file of a stranger's: public addresses only, within limits of size, time and type.

This file needs nothing but the standard library, because two programs run it: roclip-audit itself (``--recheck``) and
the interpreter that img2dataset lives in, where ``driver.py`` puts ``download`` in the place of img2dataset's own.

img2dataset opens URLs with ``urllib.request.urlopen``: that follows redirects to any address and to ftp, reads
``file:``, has no limit of size, and its timeout begins anew with every packet. Here

- only http and https are spoken, the environment's proxies are not used, and at most ``MAX_REDIRECTS`` are followed;
- a name is resolved once, every address it has must be allowed, and the connection goes to one of those very addresses:
  a second answer of the name server (DNS rebinding) is never asked for. A redirect is a new connection, checked alike;
- a body is read piece by piece, up to a number of bytes, and the whole transfer has a deadline that a slow server
  cannot push on: a timer shuts the socket.
"""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

MAX_REDIRECTS = 5
PIECE_BYTES = 1 << 16
WEB_PORTS = (80, 443)
FIRST_FREE_PORT = 1024
OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex"})
"""Directives of X-Robots-Tag that img2dataset respects by default."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver = Callable[..., Sequence[tuple[Any, ...]]]

# Addresses of clouds' own services that Python takes for public (Azure, Oracle), and translated IPv4 (NAT64).
_OWN_SERVICES = tuple(ipaddress.ip_network(one) for one in ("168.63.129.16/32", "192.0.0.0/24"))
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
_MAGIC = (
    ("jpeg", re.compile(rb"\xff\xd8\xff")),
    ("png", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("webp", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("gif", re.compile(rb"GIF8[79]a")),
    ("bmp", re.compile(rb"BM")),
)
_VALUED_DIRECTIVES = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
_HOST = re.compile(r"[A-Za-z0-9._:-]+")
TYPES = tuple(name for name, _ in _MAGIC)


class Refused(Exception):  # noqa: N818 - a finding about a URL, not an error of the program
    """A download that was not made or not kept; ``str()`` is ``reason: detail``."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Limits(NamedTuple):
    """What a download may cost, and where it may go."""

    max_bytes: int = 20_000_000
    timeout_s: float = 10.0
    """Longest silence."""
    deadline_s: float = 60.0
    """Longest transfer, redirects included."""
    types: tuple[str, ...] = ("jpeg", "png", "webp")
    """Kinds of content that are kept, told by their first bytes; see TYPES."""
    allowed: tuple[str, ...] = ()
    """Networks (CIDR) that may be reached though they are not public."""
    user_agent_token: str = "roclip-audit"  # noqa: S105 - the name that X-Robots-Tag may address


class Downloaded(NamedTuple):
    """What came."""

    content: bytes
    url: str
    """Where it came from after all redirects."""


def is_public(address: Address) -> bool:
    """Tell whether an address is one that anybody on the internet reaches, also through what is embedded in it."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address.teredo is not None:
            inner = address.teredo[1]
        if inner is None and any(address in network for network in _NAT64):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None and not is_public(inner):
            return False
        if address.ipv4_mapped is not None:
            return True
        if address.is_site_local:
            return False
    if any(address in network for network in _OWN_SERVICES):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def parse_address(text: str) -> Address:
    """Read an address as ``getaddrinfo`` writes it; a scope (``fe80::1%eth0``) is left out."""
    return ipaddress.ip_address(text.partition("%")[0])


def is_allowed(address: Address, port: int, allowed: Sequence[Network]) -> bool:
    """Tell whether a connection may be made: to a network that was allowed, or to the web ports of a public address."""
    plain = getattr(address, "ipv4_mapped", None) or address
    if any(plain in network for network in allowed):
        return True
    return is_public(address) and (port in WEB_PORTS or port >= FIRST_FREE_PORT)


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Read networks as ``10.1.0.0/16`` or single addresses; ValueError if one is neither."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


class _Transfer:
    """One download: resolves and connects, and is cut off at its deadline."""

    def __init__(self, limits: Limits, resolve: Resolver) -> None:
        self._allowed = parse_networks(limits.allowed)
        self._resolve = resolve
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.expired = False

    def connect(self, target: tuple[str, int], timeout: float, source: object = None) -> socket.socket:
        """Stand in for ``socket.create_connection``."""
        host, port = target
        try:
            found = self._resolve(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Refused("unresolved", str(host)) from error
        for *_, sockaddr in found:
            if not is_allowed(parse_address(sockaddr[0]), port, self._allowed):
                raise Refused("address_refused", f"{sockaddr[0]} port {port}")
        if not found:
            raise Refused("unresolved", str(host))
        family, kind, protocol, _, sockaddr = found[0]
        connection = socket.socket(family, kind, protocol)
        with self._lock:
            if self.expired:
                connection.close()
                raise Refused("timeout", "the whole transfer took too long")
            self._socket = connection
        try:
            connection.settimeout(timeout)
            connection.connect(sockaddr)
        except BaseException:
            connection.close()
            raise
        return connection

    def expire(self) -> None:
        """Cut the transfer off, whatever it waits for."""
        with self._lock:
            self.expired = True
            if self._socket is not None:
                with suppress(OSError):  # not connected, or finished at this moment
                    self._socket.shutdown(socket.SHUT_RDWR)


def _connection(base: Any, transfer: _Transfer) -> Any:
    """Return a class of connections that go where ``transfer`` lets them."""

    class Guarded(base):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._create_connection = transfer.connect

        def set_tunnel(self, *arguments: Any, **options: Any) -> None:
            raise Refused("address_refused", "through a proxy")

    return Guarded


class _Http(urllib.request.HTTPHandler):
    def __init__(self, transfer: _Transfer) -> None:
        super().__init__()
        self._class = _connection(http.client.HTTPConnection, transfer)

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._class, req)


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()  # reads a file of certificates: 20 ms


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, transfer: _Transfer) -> None:
        super().__init__()
        self._class = _connection(http.client.HTTPSConnection, transfer)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._class, req, context=_tls())


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS
    max_repeats = 2

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        try:
            if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
                raise Refused("url_scheme", f"redirect to {newurl[:80]}")
            return super().redirect_request(req, fp, code, msg, headers, ascii_url(newurl))
        except Refused:
            fp.close()
            raise


def _opener(transfer: _Transfer) -> urllib.request.OpenerDirector:
    """Return an opener without file, ftp, data and proxy handlers."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        _Http(transfer),
        _Https(transfer),
        _Redirects(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def ascii_url(url: str) -> str:
    """Return a URL as it goes over the wire: the host in IDNA, other letters and spaces as percent escapes.

    Raises:
        Refused: it has no host, or no such form.
    """
    try:
        parts = urllib.parse.urlsplit(url.strip(" "))
        port = "" if parts.port is None else f":{parts.port}"
        host = parts.hostname or ""
        if not host.isascii():
            host = host.encode("idna").decode("ascii")
    except (ValueError, UnicodeError) as error:
        raise Refused("url_invalid", str(error)[:80]) from error
    if not _HOST.fullmatch(host):
        raise Refused("url_invalid", "a host of other characters" if host else "no host")
    if ":" in host:
        host = f"[{host}]"
    path = urllib.parse.quote(parts.path, safe="/%:@!$&'()*+,;=~-._")
    query = urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    return urllib.parse.urlunsplit((parts.scheme, host + port, path, query, ""))


def is_opted_out(values: Sequence[str], token: str) -> bool:
    """Tell whether X-Robots-Tag headers forbid the use of an image, to everybody or to ``token``."""
    for value in values:
        agent, colon, directives = value.partition(":")
        if not colon or "," in agent or agent.strip().lower() in _VALUED_DIRECTIVES:
            directives = value  # for everybody: the colon belongs to a directive
        elif agent.strip().lower() != token.lower():
            continue
        if any(directive.strip().lower() in OPT_OUTS for directive in directives.split(",")):
            return True
    return False


def content_type(content: bytes) -> str | None:
    """Return the kind of image that the first bytes announce, one of TYPES; None for anything else."""
    return next((name for name, magic in _MAGIC if magic.match(content)), None)


def is_complete(content: bytes) -> bool:
    """Tell whether an image has its end; OpenCV decodes the rest of a cut one as grey and says nothing."""
    kind = content_type(content[:16])
    if kind == "jpeg":  # the end mark of a thumbnail lies before the scan of the image
        return content.rfind(b"\xff\xd9") > content.rfind(b"\xff\xda")
    if kind == "png":
        return b"IEND" in content
    if kind == "webp":
        return len(content) >= 8 + int.from_bytes(content[4:8], "little")
    return True


def _read(response: http.client.HTTPResponse, transfer: _Transfer, limits: Limits) -> bytes:
    declared = response.headers.get("Content-Length", "")
    expected = int(declared) if declared.isascii() and declared.isdigit() and len(declared) < 16 else None
    if expected is not None and expected > limits.max_bytes:
        raise Refused("too_large", f"more than {limits.max_bytes} bytes")
    content = bytearray()
    while piece := response.read1(PIECE_BYTES):
        content += piece
        if len(content) > limits.max_bytes:
            raise Refused("too_large", f"more than {limits.max_bytes} bytes")
        if len(content) - len(piece) < 16 <= len(content) and content_type(bytes(content[:16])) not in limits.types:
            break  # no image; the rest need not come
    if transfer.expired:
        raise Refused("timeout", f"more than {limits.deadline_s:g} s")
    if content_type(bytes(content[:16])) not in limits.types:
        declared_type = re.sub(r"[^\w/+.-]", "", response.headers.get("Content-Type", "").partition(";")[0])[:40]
        raise Refused("not_an_image", content_type(bytes(content[:16])) or declared_type or "unknown content")
    if expected is not None and len(content) < expected:
        raise Refused("truncated", "fewer bytes than announced")
    if not is_complete(bytes(content)):
        raise Refused("truncated", "the image has no end")
    return bytes(content)


def download(url: str, limits: Limits, resolve: Resolver = socket.getaddrinfo) -> Downloaded:
    """Download one image.

    Args:
        url: http or https.
        limits: of size, time, type and place.
        resolve: stands in for ``socket.getaddrinfo`` in tests.

    Raises:
        Refused: for whatever reason there is no image; see ``core.fetched.FETCH_REASONS`` for the reasons.
    """
    if urllib.parse.urlsplit(url.strip(" ")[:16]).scheme.lower() not in ("http", "https"):
        raise Refused("url_scheme", url[:20])
    agent = "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:72.0) Gecko/20100101 Firefox/72.0"
    agent += f" (compatible; {limits.user_agent_token}; +https://github.com/rom1504/img2dataset)"
    request = urllib.request.Request(ascii_url(url), headers={"User-Agent": agent})  # noqa: S310 - http and https only
    transfer = _Transfer(limits, resolve)
    timer = threading.Timer(limits.deadline_s, transfer.expire)
    timer.daemon = True
    timer.start()
    try:
        with _opener(transfer).open(request, timeout=limits.timeout_s) as response:
            if is_opted_out(response.headers.get_all("X-Robots-Tag", []), limits.user_agent_token):
                raise Refused("opted_out", "X-Robots-Tag")
            return Downloaded(_read(response, transfer, limits), response.geturl())
    except Refused:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _refusal(error, expired=transfer.expired) from error
    finally:
        timer.cancel()


def _refusal(error: Exception, *, expired: bool) -> Refused:
    """Say in one of our reasons what urllib, http.client, ssl or the kernel said."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        if 300 <= error.code < 400:
            return Refused("redirects", f"HTTP {error.code}")
        return Refused("http_gone" if error.code in (404, 410) else "http_error", f"HTTP {error.code}")
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, Refused):
        return cause
    if expired or isinstance(cause, (TimeoutError, socket.timeout)):
        return Refused("timeout", "the whole transfer took too long" if expired else "silence")
    if isinstance(cause, ssl.SSLError):
        return Refused("tls", (cause.reason or "").lower().replace("_", " ")[:60])
    if isinstance(cause, (http.client.IncompleteRead, ConnectionResetError)):
        return Refused("truncated", type(cause).__name__)
    if isinstance(cause, ConnectionRefusedError):
        return Refused("unreachable", "connection refused")
    if isinstance(cause, http.client.InvalidURL):
        return Refused("url_invalid", "")
    if isinstance(cause, OSError) and cause.strerror:
        return Refused("unreachable", cause.strerror[:60])
    return Refused("protocol", type(cause).__name__)


def hash_mismatch(content: bytes, published: str) -> str | None:
    """Compare content with a published hash; return what was found instead, None if they agree.

    Args:
        content: what was downloaded.
        published: ``md5:HEX``, ``sha1:HEX``, ``sha256:HEX`` or ``sha512:HEX``.

    Returns:
        ``sha256 HEX`` of the content where they differ, whatever kind of hash was published.
    """
    kind, _, expected = published.partition(":")
    if hashlib.new(kind, content, usedforsecurity=False).hexdigest() == expected.lower():
        return None
    return f"sha256 {hashlib.sha256(content).hexdigest()}"
