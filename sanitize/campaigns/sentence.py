"""Say in words what a campaign is. Words of the scanned data are an attacker's: short, quoted, printable."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from roclip_audit.core.terminal import printable
from roclip_audit.core.words import STAMP_SHOWS
from roclip_audit.sanitize.campaigns.choice import Found
from roclip_audit.sanitize.campaigns.scored import Scored
from roclip_audit.sanitize.campaigns.trigger import Trigger

MAX_QUOTED: Final = 40
_SHARED: Final = {"domain": "come from the domain", "shard": "lie in the shard"}
_QUOTES: Final = re.compile("['‘’‛`]")


def quoted(text: str) -> str:
    """Quote text of the scanned data: one short line without controls, invisible characters or quote marks."""
    visible = "".join(character for character in text[:1_000] if unicodedata.category(character) != "Cf")
    return f"'{printable(_QUOTES.sub('', visible), limit=MAX_QUOTED)}'"


def tell(found: Found, scored: Scored, trigger: Trigger | None) -> str:
    """Return the sentence of a campaign."""
    group, n = found.group, len(found.group.rows)
    if group.kind == "duplicate_image":
        example = quoted(scored.captions[int(group.rows[0])])
        text = (
            f"{n:,} pairs show the same picture under {len(group.units):,} different captions, such as {example}: "
            f"{found.n_suspicious:,} of them do not fit it"
        )
    elif group.kind == "stamp":
        what = STAMP_SHOWS.get(found.shows or "", "the same")
        what += ", and pictures like theirs do not" if found.by_captions else " in pictures that are otherwise unlike"
        text = f"{n:,} pairs {_whose(found)}, show {what}"
    elif group.kind == "trait":
        text = (
            f"{n:,} pairs {_whose(found)} and whose pictures share a trait: {found.n_suspicious:,} of them do not fit"
        )
    elif group.kind == "captions":
        text = f"{n:,} pairs {_whose(found)}: {found.n_suspicious:,} of their pictures do not fit"
    else:
        what = _SHARED.get(group.kind, f"share the {group.kind}")
        text = f"{n:,} pairs {what} {quoted(group.label)}: in {found.n_suspicious:,} picture and caption do not fit"
    if group.kind == "stamp":
        what = "by chance" if found.by_captions else "that captions are so alike"
        sure = f"p = {found.p_corrected:.1g} {what}, adjusted for {found.n_tested:,} groups"
    else:
        others = "of other pairs that share one" if group.kind == "trait" else "elsewhere"
        text += f", {found.n_suspicious / n:.0%} against {found.base_rate:.0%} {others}"
        sure = f"p = {found.p_corrected:.1g}, corrected for {found.n_tested:,} groups"
    text += f" ({sure})"
    if trigger is not None:
        text += f"; {trigger.words}"
    return text + "."


def _whose(found: Found) -> str:
    if found.group.exact:
        return f"whose captions name {quoted(found.group.label)}"
    return f"with captions alike, telling words {quoted(found.group.label)}"
