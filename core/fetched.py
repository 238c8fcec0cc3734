"""Why a URL of a list gave no pair: the fixed list of reasons, and how to tell them from what img2dataset wrote.

``roclip-audit fetch`` writes ``reason: detail`` into img2dataset's column ``error_message``. Shards that others made
hold the messages of urllib and OpenCV; those are recognised by their words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

FOLDER: Final = "fetch"
"""Below the shards: what ``roclip-audit fetch`` knows about them."""
REJECTED_FILE: Final = "rejected.parquet"
MAX_DETAIL_CHARS: Final = 300
MAX_URL_CHARS: Final = 8_192

FETCH_REASONS: Final[dict[str, str]] = {
    # rows of the list that were not tried
    "row_malformed": "The line of the list cannot be read: not JSON, too many fields, or too long",
    "url_missing": "The row has no URL",
    "url_too_long": f"The URL has more than {MAX_URL_CHARS:,} characters",
    "url_control": "The URL holds control characters, line breaks or other invisible characters",
    "url_scheme": "The URL, or a redirect, is neither http nor https",
    "url_invalid": "The URL has no host, or no valid one",
    "url_credentials": "The URL holds a user name or password",
    "caption_too_long": "The caption is longer than the limit",
    "hash_invalid": "The published hash is no hash of its kind, so the image could not be verified",
    # what the network said
    "unresolved": "The name of the host does not exist (any more)",
    "unreachable": "The host does not answer or refuses the connection",
    "http_gone": "HTTP 404 or 410: there is no such file (any more)",
    "http_error": "Another HTTP error",
    "redirects": "Too many redirects, or a redirect that leads nowhere",
    "tls": "The host has no valid certificate",
    "protocol": "The answer is not HTTP",
    "timeout": "The host was silent, or the transfer was not finished in time",
    "truncated": "The transfer ended before all bytes had come",
    # what was refused
    "address_refused": "The host, or a redirect, is at an address that is not public (or a port that is not the web's)",
    "opted_out": "X-Robots-Tag says that the image is not to be used",
    "too_large": "The file has more bytes, or the image more pixels, than the limit",
    "not_an_image": "The content is no image of a kind that is accepted",
    "hash_mismatch": "The content is not what it was when the list was published",
    # what could not be made into a pair
    "undecodable": "The image cannot be decoded",
    "image_rejected": "The image is too small or has another shape than was asked for",
    "other": "Anything else; the detail has the words",
}

DEAD: Final = ("unresolved", "unreachable", "http_gone")
"""Reasons that say that the link is dead, today at least."""

_FOREIGN: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), reason)
    for pattern, reason in (
        (r"hash mismatch", "hash_mismatch"),
        (r"X-Robots-Tag", "opted_out"),
        (r"HTTP Error (404|410)\b", "http_gone"),
        (r"HTTP Error 30\d|redirect", "redirects"),
        (r"HTTP Error \d", "http_error"),
        (r"name or service not known|nodename nor servname|name resolution|no address associated|getaddrinfo",
         "unresolved"),
        (r"timed out|timeout", "timeout"),
        (r"certificate|\bSSL\b|\bTLS\b", "tls"),
        (r"IncompleteRead|reset by peer", "truncated"),
        (r"refused|unreachable|no route|remote end closed", "unreachable"),
        (r"unknown url type|urlopen error .* not on local host", "url_scheme"),
        (r"no host given|nonnumeric port|invalid ipv6|can't contain control|label (empty|too long)", "url_invalid"),
        (r"area too large|CV_IO_MAX_IMAGE", "too_large"),
        (r"too small|aspect ratio", "image_rejected"),
        (r"decod|imdecode|cv2|OpenCV", "undecodable"),
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no pair: one of FETCH_REASONS, and the words for people (a stranger's text)."""

    reason: str
    detail: str


def failure_of(status: str, message: str | None) -> Failure:
    """Read img2dataset's columns ``status`` and ``error_message`` of a row that failed."""
    text = (message or "").strip()
    reason, _, detail = text.partition(":")
    if reason in FETCH_REASONS:
        return Failure(reason, detail.strip()[:MAX_DETAIL_CHARS])
    found = next((reason for pattern, reason in _FOREIGN if pattern.search(text[:2000])), None)
    if found is None:
        found = "undecodable" if status == "failed_to_resize" else "other"
    return Failure(found, text[:MAX_DETAIL_CHARS])


_FOUND_HASH: Final = re.compile(r"found sha256 ([0-9a-f]{64})")


def found_sha256(detail: str) -> str | None:
    """Return the SHA-256 of what came instead, from the detail of a hash mismatch."""
    found = _FOUND_HASH.search(detail)
    return None if found is None else found.group(1)
