"""What can be wrong with a pair or a shard: the fixed list of reasons, and how stages record them.

A bad pair is a row with a reason, never a crash and never silence. A row is *fatal* if the pair (or, for a row without
a pair, the rest of the shard) could not be scored because of it; the same reason may be fatal in one place and not in
another (a broken json matters only where the caption was to come from it).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.schema import PROBLEMS

MAX_DETAIL_CHARS: Final = 300

REASONS: Final[dict[str, str]] = {
    # the shard as a tar archive
    "tar_damaged": "The shard is no tar archive, or a header in it is broken; nothing after that place was read",
    "tar_truncated": "The shard ends in the middle of a member, as after a killed download",
    "tar_unterminated": "The shard ends without the end-of-archive mark; a writer may have been killed between members",
    "tar_trailing_data": "There is data after the end-of-archive mark, which tar readers ignore",
    "tar_unsupported": "A header that readers take differently (sparse file, global name); nothing after it was read",
    "shard_unreadable": "The operating system did not let the shard be read; the next scan tries again",
    "not_a_pair": "A member that belongs to no sample: a directory, a link, a name without extension, __metadata__",
    "no_pairs": "The shard holds no sample at all",
    # what lies beside the shard
    "count_mismatch": "The parquet or _stats.json beside the shard promises another number of pairs",
    "sidecar_invalid": "The parquet or _stats.json beside the shard cannot be read",
    # the members of one sample
    "missing_image": "No jpg, jpeg, png or webp member",
    "multiple_images": "More than one image member; the one that open_clip takes was used (jpg, png, jpeg, webp)",
    "missing_caption": "No txt member, and no caption in the json or the parquet",
    "empty_caption": "The caption is empty or white space",
    "caption_not_utf8": "The caption is not valid UTF-8; bad bytes were replaced by U+FFFD",
    "caption_too_long": "The caption was cut at the limit",
    "captions_differ": "txt and json hold different captions; txt was scanned",
    "json_invalid": "The json member is no JSON object, is nested too deeply or is larger than the limit",
    "hash_mismatch": "The downloaded file does not have the hash that the list publishes: it changed, or was replaced",
    "uid_invalid": "The uid in json or parquet is not 32 hex characters; one was derived",
    "key_repeated": "The same key occurred before in this shard",
    # the image itself
    "image_undecodable": "The image cannot be decoded",
    "image_truncated": "The image ends before its last row",
    "image_too_large": "The image has more pixels or bytes than the limit; it was not decoded",
    "image_animated": "The image has several frames; the first was used",
    "image_format": "The content is of another format than the extension says, or of one that is not accepted",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One row of the problems table, without its shard and stage.

    ``ordinal`` and ``key`` are None where the whole shard is concerned. ``detail`` is for people; it may quote what the
    shard says, so it is hostile text like a caption.
    """

    reason: str
    detail: str
    fatal: bool
    ordinal: int | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if self.reason not in REASONS:
            raise ConfigError(f"unknown problem reason {self.reason!r}; add it to core/problems.py")

    def row(self, shard: str, stage: str) -> tuple[object, ...]:
        """Return the values of core.schema.PROBLEMS; the detail is cut at MAX_DETAIL_CHARS."""
        detail = self.detail if len(self.detail) <= MAX_DETAIL_CHARS else self.detail[: MAX_DETAIL_CHARS - 1] + "…"
        return (shard, self.ordinal, self.key, stage, self.reason, detail, self.fatal)


def write_problems(path: Path, problems: Iterable[Problem], *, shard: str, stage: str) -> int:
    """Write a stage's problems of one shard as parquet (columns PROBLEMS), atomically, and return how many."""
    from roclip_audit.core.tables import table_writer

    n = 0
    with table_writer(path, PROBLEMS) as table:
        for problem in problems:
            table.add(problem.row(shard, stage))
            n += 1
    return n
