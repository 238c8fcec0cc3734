"""Find the caption, URL and uid of a sample in its members and in the parquet beside the shard.

The caption is the txt member, as for open_clip; without one, the json's ``caption`` or ``text``; without that, the same
columns of the parquet. With a caption key given, that key of the json (or column of the parquet) is the caption and
nothing else is. Nothing is decoded by extension: only txt and json are read, as bytes, within limits.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.samples import Sample
from roclip_audit.core.sidecar import Sidecar
from roclip_audit.core.tar import Buffer, Member

IMAGE_EXTENSIONS: Final = ("jpg", "png", "jpeg", "webp")
"""In the order in which open_clip looks for them."""
CAPTION_KEYS: Final = ("caption", "text")
MAX_URL_CHARS: Final = 8_192
HASH_BYTES: Final = 8 << 20
UID_VERSION: Final = b"roclip-audit-uid"
_UID = re.compile(r"[0-9a-fA-F]{32}")


def image_member(sample: Sample) -> Member | None:
    """Return the member that open_clip takes for a sample's picture; None if it has none."""
    return next((sample.members[name] for name in IMAGE_EXTENSIONS if name in sample.members), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig:
    """What may be chosen about indexing."""

    caption_key: str | None = None
    """Key of the json that holds the caption; None: txt, else ``caption`` or ``text`` of json or parquet."""
    max_json_bytes: int = 1 << 20
    """A larger json member is not parsed."""
    max_caption_bytes: int = 16_384
    """A longer caption is cut. Text encoders read 77 to 256 tokens."""
    use_sidecars: bool = True
    """Read the parquet and _stats.json beside each shard."""

    def __post_init__(self) -> None:
        if self.caption_key is not None and not self.caption_key:
            raise ConfigError("caption key: must not be empty")
        if self.max_json_bytes < 1 or self.max_caption_bytes < 1:
            raise ConfigError("limits of json and caption: must be at least 1 byte")


@dataclass(slots=True, kw_only=True)
class Texts:
    """What a sample says in words. ``issues`` are (reason, detail, fatal)."""

    caption: str | None = None
    caption_sha256: bytes | None = None
    """Of the caption before it was cut or mended; what a derived uid is made from."""
    source: str | None = None
    url: str | None = None
    uid: str | None = None
    """Lower case, if the data has a valid one."""
    issues: list[tuple[str, str, bool]] = field(default_factory=list)


def read_texts(buffer: Buffer, sample: Sample, sidecar: Sidecar | None, occurrence: int, config: IndexConfig) -> Texts:
    """Read caption, URL and uid of one sample.

    Args:
        buffer: the shard.
        sample: the sample in it.
        sidecar: the parquet beside the shard, if any.
        occurrence: how many samples with this key came before in the shard; picks the row of the parquet.
        config: limits and the caption key.
    """
    texts = Texts()
    row = sidecar.row_of(sample.raw_key, occurrence) if sidecar is not None else None
    meta = _read_json(buffer, sample, config, texts)
    keys = CAPTION_KEYS if config.caption_key is None else (config.caption_key,)
    from_json = next((meta[key] for key in keys if isinstance(meta.get(key), str)), None)
    if config.caption_key is None and "txt" in sample.members:
        member = sample.members["txt"]
        texts.caption_sha256 = sha256_of(buffer, member)
        raw = buffer[member.offset : member.offset + min(member.size, config.max_caption_bytes)]
        _take_caption(texts, raw, member.size, "txt")
        if from_json is not None and _encode(from_json)[: config.max_caption_bytes].strip() != raw.strip():
            texts.issues.append(("captions_differ", f"json: {from_json}", False))
    elif from_json is not None:
        _take_text(texts, from_json, "json", config)
    elif sidecar is not None and row is not None and (caption := sidecar.text(row, keys)) is not None:
        _take_text(texts, caption, "parquet", config)
    else:
        texts.issues.append(("missing_caption", _where_looked(sample, meta, keys), True))
    if texts.caption is not None and not texts.caption.strip():
        texts.issues.append(("empty_caption", f"{texts.source}: {len(texts.caption)} characters of white space", True))
    _take_url_and_uid(texts, meta, sidecar, row)
    return texts


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # json can spell lone surrogates; decoding will replace them


def _take_text(texts: Texts, text: str, source: str, config: IndexConfig) -> None:
    raw = _encode(text)
    texts.caption_sha256 = hashlib.sha256(raw).digest()
    _take_caption(texts, raw[: config.max_caption_bytes], len(raw), source)


def _take_caption(texts: Texts, raw: bytes, size: int, source: str) -> None:
    """Take a caption of ``size`` bytes of which ``raw`` is the beginning."""
    texts.source = source
    if len(raw) < size:
        texts.issues.append(("caption_too_long", f"{size:,} bytes, cut at {len(raw):,}", False))
        raw = raw[: len(raw) - _partial_character(raw)]
    try:
        texts.caption = raw.decode()
    except UnicodeDecodeError as error:
        texts.caption = raw.decode("utf-8", "replace")
        texts.issues.append(("caption_not_utf8", f"{source}: bad byte at {error.start}", False))


def _partial_character(raw: bytes) -> int:
    """Return how many bytes at the end of a cut text are the beginning of a character."""
    for n in range(1, min(4, len(raw) + 1)):
        lead = raw[-n]
        if lead >= 0xC0:
            return n if n < (2 if lead < 0xE0 else 3 if lead < 0xF0 else 4) else 0
        if lead < 0x80:
            return 0
    return 0


def sha256_of(buffer: Buffer, member: Member) -> bytes:
    """Return the SHA-256 of a member's data, read in pieces of HASH_BYTES."""
    state = hashlib.sha256()
    end = member.offset + member.size
    for position in range(member.offset, end, HASH_BYTES):
        state.update(buffer[position : min(position + HASH_BYTES, end)])
    return state.digest()


def _read_json(buffer: Buffer, sample: Sample, config: IndexConfig, texts: Texts) -> Mapping[str, Any]:
    member = sample.members.get("json")
    if member is None:
        return {}
    wrong: str
    if member.size > config.max_json_bytes:
        wrong = f"{member.size:,} bytes, the limit is {config.max_json_bytes:,}"
    else:
        try:
            meta = json.loads(buffer[member.offset : member.offset + member.size])
        except (ValueError, RecursionError) as error:
            wrong = str(error)
        else:
            if isinstance(meta, dict):
                return meta
            wrong = f"a {type(meta).__name__}, not an object"
    is_fatal = config.caption_key is not None or "txt" not in sample.members
    texts.issues.append(("json_invalid", wrong, is_fatal))
    return {}


def _where_looked(sample: Sample, meta: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    members = ", ".join(list(sample.members)[:8])
    odd = [f"{key} is {type(meta[key]).__name__}" for key in keys if key in meta]
    return f"members: {members or 'none'}" + (f"; json: {', '.join(odd)}" if odd else "")


def _take_url_and_uid(texts: Texts, meta: Mapping[str, Any], sidecar: Sidecar | None, row: int | None) -> None:
    url, uid = meta.get("url"), meta.get("uid")
    if sidecar is not None and row is not None:
        url = url if isinstance(url, str) else sidecar.text(row, ("url",))
        uid = uid if uid is not None else sidecar.text(row, ("uid",))
    if isinstance(url, str):
        texts.url = _encode(url[:MAX_URL_CHARS]).decode("utf-8", "replace")
    if isinstance(uid, str) and _UID.fullmatch(uid):
        texts.uid = uid.lower()
    elif uid is not None:
        texts.issues.append(("uid_invalid", f"{uid!r}"[:100], False))


def derive_uid(sample: Sample, texts: Texts, image_sha256: bytes | None) -> str:
    """Derive a uid from the content of a pair: the same wherever the pair lies, in whatever shard.

    BLAKE2b of 128 bits, personalised with UID_VERSION, over the key, the SHA-256 of the caption bytes and the SHA-256
    of the image bytes, each with its length before it, and a mark in the place of one that is missing. Two pairs share
    a uid only if all three are equal.

    Returns:
        32 hex characters, the form of DataComp's uids.
    """
    state = hashlib.blake2b(digest_size=16, person=UID_VERSION)
    for part in (sample.raw_key.encode("utf-8", "surrogateescape"), texts.caption_sha256, image_sha256):
        state.update(b"-" if part is None else b"+%d:" % len(part))
        state.update(part or b"")
    return state.hexdigest()
