"""The step of the scan that looks for campaigns: from a finished judge stage to two tables and the triggers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from roclip_audit.core.progress import Reporter
from roclip_audit.core.run import RunFolder, write_atomic
from roclip_audit.core.schema import CAMPAIGN_PAIRS, CAMPAIGNS, TRAIT_P
from roclip_audit.core.shards import Shard
from roclip_audit.core.tables import table_writer
from roclip_audit.core.terminal import printable
from roclip_audit.sanitize.campaigns.choice import CampaignConfig, Found, carriers, choose
from roclip_audit.sanitize.campaigns.groups import Group, candidate_groups, stamped_groups, traced_groups
from roclip_audit.sanitize.campaigns.scored import Scored, load_scored
from roclip_audit.sanitize.campaigns.sentence import tell
from roclip_audit.sanitize.campaigns.trigger import Trigger, recover_trigger
from roclip_audit.sanitize.stamps.told import read_stamps

FOLDER: Final = "campaigns"
MAX_LABEL: Final = 200


def find_campaigns(
    run: RunFolder,
    shards: Sequence[Shard],
    config: CampaignConfig,
    reporter: Reporter,
    *,
    seed: int,
    workers: int,
    max_pixels: int,
    more_groups: Iterable[Group] = (),
) -> dict[str, int]:
    """Find campaigns and write campaigns/campaigns.parquet, campaigns/pairs.parquet and campaigns/N-trigger.png.

    Args:
        run: with a finished judge stage.
        shards: as scanned; pictures of campaigns are read from them.
        config: see CampaignConfig.
        reporter: told about progress, a campaign a step.
        seed: of the clusters of captions and of the random controls.
        workers: threads; the files are the same for every number.
        max_pixels: larger images are not decoded.
        more_groups: groups of other kinds that are tested with the rest.

    Returns:
        Counts: n_campaigns, n_triggers, n_tested.

    Raises:
        ShardError: a shard is no longer what was scanned.
    """
    scored = load_scored(run, shards)
    groups = [*candidate_groups(scored, seed=seed), *more_groups]
    suspicious_N = scored.p_value_N > config.unrelated
    traced_N = scored.trait_p_N <= TRAIT_P
    of_traced = traced_groups(groups, scored, traced_N)
    stamps = read_stamps(run)
    stamped = carriers(stamped_groups(scored, len(stamps)), stamps)
    campaigns = choose(groups, of_traced, suspicious_N, traced_N, config, known=stamped)
    for old in (run.root / FOLDER).glob("*-trigger.png"):
        old.unlink()
    triggers: list[Trigger | None] = []
    with reporter.stage("campaigns", total=len(campaigns), unit="campaigns") as progress:
        for number, found in enumerate(campaigns):
            trigger = None
            if number < config.max_triggers:
                marked_N = _suspicious_with(found.group, suspicious_N)
                trigger = recover_trigger(
                    found.group, scored, marked_N, seed=seed, workers=workers, max_pixels=max_pixels
                )
            if trigger is not None:
                _save(trigger.picture, run.file(FOLDER, f"{number + 1}-trigger.png"))
            triggers.append(trigger)
            progress.advance(1)
    _write(run, scored, campaigns, triggers, suspicious_N)
    return {
        "n_campaigns": len(campaigns),
        "n_triggers": sum(trigger is not None for trigger in triggers),
        "n_tested": len(groups) + len(of_traced),
    }


def _suspicious_with(group: Group, suspicious_N: np.ndarray) -> np.ndarray:
    """Return the suspicious pairs; of a stamp all its carriers are, whether their captions fit or not."""
    if group.kind != "stamp":
        return suspicious_N
    marked_N = suspicious_N.copy()
    marked_N[group.rows] = True
    return marked_N


def _save(picture: np.ndarray, path: Path) -> None:
    write_atomic(path, lambda temporary: Image.fromarray(picture).save(temporary, format="PNG"))


def _write(
    run: RunFolder,
    scored: Scored,
    campaigns: Sequence[Found],
    triggers: Sequence[Trigger | None],
    suspicious_N: np.ndarray,
) -> None:
    with table_writer(run.file(FOLDER, "campaigns.parquet"), CAMPAIGNS) as table:
        for number, (found, trigger) in enumerate(zip(campaigns, triggers, strict=True), start=1):
            box = trigger.box if trigger is not None else (None, None, None, None)
            table.add(
                (
                    number,
                    found.group.kind,
                    printable(found.group.label, limit=MAX_LABEL),
                    len(found.group.rows),
                    found.n_suspicious,
                    found.n_suspicious / len(found.group.rows),
                    found.base_rate,
                    found.p_value,
                    found.p_corrected,
                    tell(found, scored, trigger),
                    f"{FOLDER}/{number}-trigger.png" if trigger is not None else None,
                    *box,
                )
            )
    with table_writer(run.file(FOLDER, "pairs.parquet"), CAMPAIGN_PAIRS) as table:
        for number, found in enumerate(campaigns, start=1):
            marked_N = _suspicious_with(found.group, suspicious_N)
            for row in found.group.rows.tolist():
                table.add((number, scored.uids[row], bool(marked_N[row])))
