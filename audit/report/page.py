"""Write the report of a run as one HTML page that needs nothing else and may do nothing.

The page carries its style and its pictures; it has no script, and its Content-Security-Policy forbids everything but
that style (by hash) and pictures inside the page. All text of the scanned data is escaped by Jinja, shown on one line
with control and reordering characters as escapes (``report.text``), and isolated from the text around it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import duckdb
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

import roclip_audit
from roclip_audit.audit.query import clear_errors
from roclip_audit.audit.report import charts, facts, gallery
from roclip_audit.audit.report.downloads import read_downloads
from roclip_audit.audit.report.text import short, shown
from roclip_audit.audit.store import open_readonly
from roclip_audit.audit.why import REASONS as RISK_REASONS
from roclip_audit.core.environment import readable_size
from roclip_audit.core.errors import ConfigError
from roclip_audit.core.problems import REASONS as PROBLEM_REASONS
from roclip_audit.core.run import RunFolder, write_atomic
from roclip_audit.core.schema import FLAG_FDR
from roclip_audit.core.words import count, level, percent

THUMBNAILS: Final = 60
SMALL_DATA: Final = 5000
"""Below so many scored pairs the page says that the error rates are wide."""
KINDS: Final = {
    "stamp": "what repeats",
    "duplicate_image": "one picture",
    "captions": "similar captions",
    "trait": "shared trait",
    "domain": "domain",
    "shard": "shard",
}
SECTIONS: Final = (
    ("estimate", "How much"),
    ("lists", "Lists"),
    ("campaigns", "Campaigns"),
    ("pairs", "Pairs"),
    ("duplicates", "Repeated pictures"),
    ("shards", "Shards"),
    ("domains", "Domains"),
    ("downloads", "Downloads"),
    ("problems", "Problems"),
    ("decisions", "Decisions"),
    ("scan", "The scan"),
)
_HERE: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written: where, how large, and how many different pictures are in it or could not be had."""

    path: Path
    n_bytes: int
    n_pictures: int
    n_absent: int


def write_report(run: RunFolder, out: Path, *, thumbnails: int = THUMBNAILS) -> Written:
    """Write the report of a finished scan.

    Args:
        run: the run folder; where its shards do not lie as scanned, the page says so in place of pictures.
        out: the HTML file; it appears when it is complete.
        thumbnails: pairs to show with their picture, the ones to look at first; 60 of them keep the page below 5 MB.

    Raises:
        ConfigError: ``out`` cannot be written.
        StoreError: the database is missing, damaged or locked.
    """
    if out.is_dir():
        raise ConfigError(f"{out}: is a folder; name a file with --out")
    with open_readonly(run) as connection, clear_errors(run.database):
        page, pictures = _render(run, connection, thumbnails)
    content = page.encode("utf-8", errors="backslashreplace")
    try:
        write_atomic(out, lambda path: path.write_bytes(content))
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror or error})") from error
    n_absent = sum(image.uri is None for image in pictures)
    return Written(path=out, n_bytes=len(content), n_pictures=len(pictures) - n_absent, n_absent=n_absent)


def _render(run: RunFolder, connection: duckdb.DuckDBPyConnection, n: int) -> tuple[str, list[gallery.Image]]:
    about, scores = facts.read_run(connection), facts.read_scores(connection)
    cards = gallery.read_cards(connection, n)
    campaigns, n_campaigns = gallery.read_campaigns(connection)
    duplicates = facts.read_duplicates(connection)
    few = [sample.uid for one in campaigns for sample in one.samples] + [group.uid for group in duplicates.rows]
    large, small = gallery.read_images(connection, [card.uid for card in cards], few)
    triggers = {one.campaign: gallery.read_trigger(run, one.trigger_png) for one in campaigns if one.trigger_png}
    started, finished = _times(run)
    page = _template().render(
        run=about,
        scores=scores,
        bins=[(i / facts.N_BINS, (i + 1) / facts.N_BINS, k) for i, k in enumerate(scores.histogram)],
        flag=next(cut for cut in scores.cuts if cut.fdr == FLAG_FDR),
        cards=cards,
        large=large,
        small=small,
        campaigns=campaigns,
        n_campaigns=n_campaigns,
        triggers=triggers,
        duplicates=duplicates,
        shards=facts.read_shards(connection),
        domains=facts.read_domains(connection),
        downloads=read_downloads(connection),
        problems=facts.read_problems(connection),
        decisions=facts.read_decisions(connection),
        facts=_scan_facts(about, started, finished),
        finished=finished,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=roclip_audit.__version__,
    )
    return page, [*(small | large).values(), *triggers.values()]


def _times(run: RunFolder) -> tuple[str, str]:
    """Return when the scan began and ended, empty where the manifest does not say."""
    try:
        manifest = json.loads(run.manifest.read_text(encoding="utf-8"))
        return _minute(manifest.get("started_at")), _minute(manifest.get("finished_at"))
    except (OSError, ValueError, AttributeError):
        return "", ""


def _minute(moment: object) -> str:
    if not isinstance(moment, str):
        return ""
    return datetime.fromisoformat(moment).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _scan_facts(about: facts.Run, started: str, finished: str) -> list[tuple[str, str]]:
    shards = f"{count(about.n_shards, 'shard')}, {readable_size(about.n_bytes)}"
    return [
        ("shards", f"{shards}, in {about.folder}" if about.folder else shards),
        ("pairs", f"{about.n_pairs:,}, of them {about.n_scored:,} scored"),
        ("scan", f"{started} to {finished}" if started and finished else "times unknown"),
        ("roclip-audit", f"{about.version}, database schema {about.schema_version}"),
        ("encoder", about.encoder),
        ("encoder fingerprint", about.encoder_fingerprint),
        ("views of each picture", ", ".join(about.views)),
        ("contest", f"against {about.pool_size:,} other captions, {count(about.rounds, 'round')}"),
        ("seed", str(about.seed)),
    ]


def _most_mean(groups: facts.Groups) -> float:
    return max((group.mean or 0.0 for group in groups.rows), default=0.0)


def _picture_reason(note: str) -> str:
    return PROBLEM_REASONS.get(note, note)


def _meaning(reason: str) -> str:
    return PROBLEM_REASONS.get(reason, "")


@cache
def _template() -> Template:
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "percent": percent,
        "level": level,
        "count": count,
        "shown": shown,
        "short": short,
        "reason": _picture_reason,
        "meaning": _meaning,
    }
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    fixed: dict[str, Any] = {
        "style": Markup(style),  # noqa: S704  # our own file
        "style_hash": f"sha256-{digest}",
        "sections": SECTIONS,
        "kinds": KINDS,
        "reasons": RISK_REASONS,
        "small_data": SMALL_DATA,
        "most_mean": _most_mean,
    }
    drawings = (
        charts.estimate_chart, charts.suspicion_chart, charts.promise_chart, charts.meter, charts.box_mark,
    )  # fmt: skip
    environment.globals |= fixed | {draw.__name__: draw for draw in drawings}
    return environment.from_string((_HERE / "page.html.j2").read_text(encoding="utf-8"))
