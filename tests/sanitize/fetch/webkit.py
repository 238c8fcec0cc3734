"""A small web on the loopback interface: good hosts, bad hosts, and one that never stops talking.

    with serve() as web:
        web.url("good/3.png")

Pictures are drawn from their number. Every answer is bounded: what is endless ends when the server does.
"""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from tests.shardkit import COLOURS, SHAPES, draw

PIECE = b"\xff\xd8\xff" + b"x" * 65_533


@lru_cache(maxsize=4096)
def picture(number: int) -> bytes:
    """Return the PNG that ``good/NUMBER.png`` shows."""
    rng = np.random.default_rng(number)
    return draw(str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS))), rng=rng, px=48)


def caption_of(number: int) -> str:
    """Return a caption for ``good/NUMBER.png``."""
    return f"a picture of thing {number}"


def sha256_of(number: int) -> str:
    """Return the hash of ``picture(number)``."""
    return hashlib.sha256(picture(number)).hexdigest()


@dataclass
class Web:
    """A running server."""

    port: int
    requests: list[str] = field(default_factory=list)
    """Paths that were asked for, in order."""
    changed: bool = False
    """Whether ``later/N.png`` shows another picture by now."""
    stopped: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/{path}"


class _Handler(BaseHTTPRequestHandler):
    web: Web

    def log_message(self, *_: Any) -> None:
        pass

    def handle(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the client had enough
            super().handle()

    def answer(self, body: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in ({"Content-Type": "image/png"} | sent).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.web.requests.append(parts.path)
        kind, _, rest = parts.path.strip("/").partition("/")
        number = int(rest.partition(".")[0]) if rest.partition(".")[0].isdigit() else 0
        query = parse_qs(parts.query)
        if kind == "good":
            self.answer(picture(number))
        elif kind == "later":
            self.answer(picture(number + 1_000_000 if self.web.changed else number))
        elif kind == "placeholder":
            self.answer(picture(-1 % 9973))
        elif kind == "missing":
            self.answer(b"no", 404, Content_Type="text/html")
        elif kind == "error":
            self.answer(b"no", 503)
        elif kind == "page":
            self.answer(b"<html>this domain is for sale</html>", Content_Type="text/html; charset=utf-8")
        elif kind == "disguised":
            self.answer(b"<html>this is no picture</html>", Content_Type="image/jpeg")
        elif kind == "broken":
            self.answer(picture(number)[:-20])
        elif kind == "truncated":
            self.answer(picture(number)[:100], length=len(picture(number)))
        elif kind == "announced":
            self.answer(PIECE, length=1 << 40)
        elif kind == "endless":
            self.endless()
        elif kind == "drip":
            self.drip()
        elif kind == "silent":
            self.web.stopped.wait(30)
        elif kind == "redirect":
            self.answer(b"", 302, Location=unquote(query["to"][0]))
        elif kind == "loop":
            self.answer(b"", 302, Location=f"/loop/{number + 1}")
        elif kind == "optout":
            self.answer(picture(number), X_Robots_Tag=query["tag"][0])
        elif kind == "bomb":
            self.answer(_bomb())
        else:
            self.answer(b"?", 404)

    def endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.web.stopped.is_set():
            self.wfile.write(PIECE)

    def drip(self) -> None:
        """Send one byte at a time, so that no single wait is long."""
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        for byte in picture(0) * 100:
            if self.web.stopped.wait(0.05):
                return
            self.wfile.write(bytes([byte]))


def _bomb() -> bytes:
    """Return a PNG whose header promises 60,000 x 60,000 pixels."""
    data = bytearray(picture(0))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # many clients at a time; the default of 5 makes them wait
    daemon_threads = True
    block_on_close = False


@contextmanager
def serve() -> Iterator[Web]:
    """Run the server on a free port of all loopback addresses until the block ends."""
    handler = type("Handler", (_Handler,), {})
    with _Server(("127.0.0.1", 0), handler) as server:
        web = Web(port=server.server_address[1])
        handler.web = web  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield web
        finally:
            web.stopped.set()
            server.shutdown()
            thread.join(5)
