"""Look at every row of a list before anything is done with it: a row that will not do is left out, with a reason."""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from urllib.parse import urlsplit

from roclip_audit.core.fetched import MAX_DETAIL_CHARS, MAX_URL_CHARS, Failure
from roclip_audit.core.tar import storable
from roclip_audit.core.terminal import printable
from roclip_audit.sanitize.fetch.guard import Refused, ascii_url
from roclip_audit.sanitize.fetch.settings import HASH_KINDS

MAX_CAPTION_CHARS: Final = 100_000
_HEX: Final = re.compile(r"[0-9a-fA-F]+")
_KIND_OF_LENGTH: Final = {length: kind for kind, length in HASH_KINDS.items()}
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def url_failure(url: object) -> Failure | None:
    """Say why a URL will not be fetched; None if it will.

    Nothing is mended: what a list says is either a URL of the web or a finding. A cell that a spreadsheet would take
    for a formula is no URL either.
    """
    if not isinstance(url, str) or not url.strip():
        return Failure("url_missing", "" if url is None or isinstance(url, str) else type(url).__name__)
    if len(url) > MAX_URL_CHARS:
        return Failure("url_too_long", f"{len(url):,} characters, {shown(url[:40])}…")
    text = url.strip(" ")
    if any(unicodedata.category(character) in _HIDDEN for character in text):
        return Failure("url_control", shown(text))
    scheme = text.partition(":")[0].lower()
    if scheme not in ("http", "https"):
        return Failure("url_scheme", shown(text[:40]))
    try:
        parts = urlsplit(text)
        ascii_url(text)
    except Refused as refused:
        return Failure(refused.reason, shown(refused.detail))
    except ValueError as error:
        return Failure("url_invalid", shown(str(error)))
    if parts.username is not None or parts.password is not None:
        return Failure("url_credentials", shown(parts.hostname or ""))
    if re.search(r'[\x00-\x20"<>\\^`{|}]', parts.netloc):
        return Failure("url_invalid", shown(parts.netloc))
    return None


def shown(text: str) -> str:
    """Return a stranger's text as one line that can be stored and shown."""
    return storable(printable(text, limit=MAX_DETAIL_CHARS))


def caption_failure(caption: object) -> Failure | None:
    """Say why a caption cannot be used; a missing one is no reason, the scan reports it."""
    if isinstance(caption, str) and len(caption) > MAX_CAPTION_CHARS:
        return Failure("caption_too_long", f"{len(caption):,} characters, the limit is {MAX_CAPTION_CHARS:,}")
    return None


def published_hash(value: object, kind: str | None) -> str | Failure | None:
    """Return a published hash as ``kind:hex``, None if there is none, or what is wrong with it.

    Args:
        value: the cell.
        kind: one of HASH_KINDS; None if the length has to tell.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    text = value.strip() if isinstance(value, str) else ""
    prefix, colon, rest = text.partition(":")
    if colon and prefix.lower() in HASH_KINDS:
        kind, text = prefix.lower(), rest.strip()
    found = kind or _KIND_OF_LENGTH.get(len(text))
    if found is None or len(text) != HASH_KINDS[found] or not _HEX.fullmatch(text):
        return Failure("hash_invalid", shown(str(value)[:80]))
    return f"{found}:{text.lower()}"
