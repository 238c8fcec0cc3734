"""From embeddings to evidence: the two global steps of a scan, and the files they leave.

``align_run`` learns the spaces and holds the contests in them; ``judge_run`` turns that into suspicion and writes
evidence, rivals and neighbours of every shard.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from roclip_audit.core.groups import first_of_each
from roclip_audit.core.progress import Reporter
from roclip_audit.core.ranks import evenly_spaced, rank_of
from roclip_audit.core.run import RunFolder
from roclip_audit.core.schema import EVIDENCE, NEIGHBOURS, RIVALS, Column
from roclip_audit.core.seeding import derive_seed, generator
from roclip_audit.core.tables import table_writer
from roclip_audit.sanitize.align import (
    AlignConfig,
    Neighbourhood,
    caption_clusters,
    deal,
    fit_space,
    joint_space,
    neighbourhood,
    own_cosines,
    reduce_images,
    train_on_all,
)
from roclip_audit.sanitize.anomaly import anomaly
from roclip_audit.sanitize.contest import ContestConfig
from roclip_audit.sanitize.copies import CountedCopies, find_copies
from roclip_audit.sanitize.dataset import Dataset
from roclip_audit.sanitize.detectors import density_scores
from roclip_audit.sanitize.detectors.neighbour_table import table_from_similarity
from roclip_audit.sanitize.evidence import (
    EvidenceConfig,
    Rivals,
    cosine_z,
    find_rivals,
    read_contest,
    sight,
    statistic,
)
from roclip_audit.sanitize.grouping import duplicates, known_share
from roclip_audit.sanitize.neighbour_evidence import (
    caption_vicinity,
    disagreement,
    distinct_captions,
    distinct_images,
)
from roclip_audit.sanitize.repair import repair
from roclip_audit.sanitize.risk import combine
from roclip_audit.sanitize.space import Ranks, Space, contest
from roclip_audit.sanitize.stamps.search import Pictured, Stamps, find_stamps, n_steps
from roclip_audit.sanitize.stamps.told import write_stamps
from roclip_audit.sanitize.suspicion import Calibrated, Sight, SuspicionConfig, calibrate
from roclip_audit.sanitize.traits import TraitConfig, Traits, find_traits, n_comparisons
from roclip_audit.sanitize.views import PARTIAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """Settings of everything between embeddings and evidence."""

    align: AlignConfig
    contest: ContestConfig
    evidence: EvidenceConfig
    suspicion: SuspicionConfig
    traits: TraitConfig
    seed: int
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """The spaces of a run, last one decisive for what people look at, the contests held in them, and what else is seen.

    Attributes:
        beside: ranks by a joint encoder that was asked as well.
        trained_cosine_N: float32 [N], cosine of image and own caption under heads that were trained on the pair too;
            None of a joint encoder, which has no heads.
    """

    near: Neighbourhood
    spaces: tuple[Space, ...]
    ranks: tuple[Ranks, ...]
    control_NR: Tensor
    traits: Traits
    stamps: Stamps
    copies: CountedCopies
    trained_cosine_N: Tensor | None
    beside: Ranks | None = None


def align_run(
    dataset: Dataset, run: RunFolder, judging: Judging, reporter: Reporter, *, joint: bool, views: tuple[str, ...]
) -> Aligned:
    """Learn the spaces (or take the encoder's own) and rank every pair in them.

    Raises:
        ConfigError: too few pairs to learn a space from.
    """
    config, seed, workers = judging.align, judging.seed, judging.workers
    with reporter.stage("neighbours", total=len(dataset)) as progress:
        image_NVR = reduce_images(dataset, run, config, joint=joint, seed=seed, workers=workers)
        near = neighbourhood(dataset, image_NVR, config, workers=workers)
        progress.advance(len(dataset))
    with reporter.stage("copies", total=len(dataset)) as progress:
        copies = find_copies(dataset.detail_N, near, workers=workers, advance=progress.advance)
    n_controls, control_rng = judging.suspicion.controls, generator(seed, "controls")

    def held(space: Space, control_NR: Tensor) -> Ranks:
        with reporter.stage(f"contest ({space.name})", total=len(dataset)) as progress:
            return contest(
                space,
                near.caption_N,
                near.group_N,
                control_NR,
                judging.contest,
                workers=workers,
                advance=progress.advance,
            )

    def shared(cluster_N: Tensor, control_NR: Tensor) -> Traits:
        total = n_comparisons(len(dataset), judging.traits)
        with reporter.stage("traits", total=total, unit="comparisons") as progress:
            return find_traits(
                dataset.grain_N,
                dataset.detail_N,
                image_NVR,
                [number for number, view in enumerate(views) if view not in PARTIAL],
                near,
                cluster_N,
                control_NR[:, 0],
                judging.traits,
                workers=workers,
                advance=progress.advance,
            )

    def stamped(traits: Traits) -> Stamps:
        pictured = Pictured(detail_N=dataset.detail_N, grain_N=dataset.grain_N, image_NVR=image_NVR, views=views)
        with reporter.stage("stamps", total=n_steps(len(dataset)), unit="looks") as progress:
            return find_stamps(pictured, near, traits, copies.family_N, workers=workers, advance=progress.advance)

    if joint:
        space = joint_space("joint", dataset.image_NVF, dataset.text_NG, run)
        cluster_N = caption_clusters(near, config, seed)
        control_NR = repair(space.fold_N, (near.caption_N, near.group_N), n_controls, control_rng)
        traits, ranks = shared(cluster_N, control_NR), (held(space, control_NR),)
        return Aligned(
            near=near,
            spaces=(space,),
            ranks=ranks,
            control_NR=control_NR,
            traits=traits,
            stamps=stamped(traits),
            copies=CountedCopies.of(copies, near, control_NR[:, 0]),
            trained_cosine_N=None,
        )

    folds = deal(near, config, seed)
    control_NR = repair(folds.stratum, (near.caption_N, near.group_N, folds.cluster_N), n_controls, control_rng)
    traits = shared(folds.cluster_N, control_NR)
    stamps = stamped(traits)
    spaces: list[Space] = []
    rounds: list[Ranks] = []
    # Heads that see a shared trigger learn it, and then it fits.
    untraced_N = (traits.p_N > judging.traits.learned_p) & (stamps.number_N == 0)
    trusted_N = untraced_N
    for name, fold_N in (("by caption", folds.by_caption_N), ("by image", folds.by_image_N)):
        with reporter.stage(f"align ({name})", total=config.n_folds, unit="folds") as progress:
            space = fit_space(
                name.replace(" ", "-"),
                dataset,
                image_NVR,
                near,
                fold_N,
                run,
                config,
                trusted_N=trusted_N,
                seed=seed,
                workers=workers,
                advance=progress.advance,
            )
        spaces.append(space)
        rounds.append(held(space, control_NR))
        doubt_N = _doubt(rounds[-1], near, judging.evidence)
        trusted_N = untraced_N & (doubt_N <= float(np.quantile(doubt_N.numpy(), 1 - config.doubted_share)))
    with reporter.stage("align (all)", total=len(dataset)) as progress:
        heads_seed = derive_seed(seed, "heads", "all")
        heads = train_on_all(image_NVR, dataset.text_NG, near.caption_N, config.heads, heads_seed)
        trained_cosine_N = own_cosines(heads, image_NVR, dataset.text_NG)
        progress.advance(len(dataset))
    beside = None
    if dataset.beside is not None:
        beside = held(joint_space("beside", *dataset.beside, run), control_NR)
    return Aligned(
        near=near,
        spaces=tuple(spaces),
        ranks=tuple(rounds),
        control_NR=control_NR,
        traits=traits,
        stamps=stamps,
        copies=CountedCopies.of(copies, near, control_NR[:, 0]),
        trained_cosine_N=trained_cosine_N,
        beside=beside,
    )


def _vicinity(near: Neighbourhood, value_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    total_N, weight_N = caption_vicinity(torch.from_numpy(value_N), near)
    return total_N.numpy(), weight_N.numpy()


def _doubt(ranks: Ranks, near: Neighbourhood, config: EvidenceConfig) -> Tensor:
    """Rank the pairs by their own statistic and by their captions' vicinity's, and add the two: float64 [N]."""
    own_N = rank_of(statistic([ranks], (), config)[:, 0])
    total_N, weight_N = caption_vicinity(own_N, near)
    return own_N + rank_of(total_N / weight_N.clamp_min(1))


def judge_run(
    dataset: Dataset, run: RunFolder, aligned: Aligned, views: tuple[str, ...], judging: Judging, reporter: Reporter
) -> Calibrated:
    """Measure every pair, calibrate its suspicion, and write evidence, rivals and neighbours of every shard."""
    near, workers, seed = aligned.near, judging.workers, judging.seed
    with reporter.stage("evidence", total=len(dataset)) as progress:
        table = _Neighbours.find(near, judging.evidence, workers=workers)
        agreement = disagreement(
            near, table.image_index_NK, table.caption_index_NK, table.reference, aligned.control_NR, workers=workers
        )
        was_learned = aligned.trained_cosine_N is not None
        known_N = known_share(dataset.captions, near.caption_N) if was_learned else None
        statistic_NR = statistic(aligned.ranks, agreement, judging.evidence, aligned.beside).numpy()
        sight_NR = sight(aligned.spaces[-1], near, aligned.control_NR, known_N=known_N, workers=workers).numpy()
        calibrated = calibrate(
            statistic_NR[:, 0],
            statistic_NR[:, 1:],
            judging.suspicion,
            generator(seed, "suspicion"),
            vicinity=partial(_vicinity, near),
            sight=Sight(sight_NR[:, 0], sight_NR[:, 1:]),
        )
        trained_N = aligned.trained_cosine_N
        risk = combine(calibrated, trained_N, aligned.traits, aligned.stamps, aligned.copies)
        space, ranks = aligned.spaces[-1], aligned.ranks[-1]
        outcome = read_contest(space, ranks, near.caption_N, judging.contest, generator(seed, "contest"))
        rivals = find_rivals(space, outcome.worst_view, near.caption_N, workers=workers)
        own, z = cosine_z(space, near.caption_N, judging.evidence.n_reference, workers=workers)
        columns: dict[str, Iterable[object]] = {
            "uid": dataset.uids,
            "suspicion": calibrated.suspicion_N.tolist(),
            "fdr": calibrated.fdr_N.tolist(),
            "risk": risk.risk_N.tolist(),
            "risk_reason": risk.reasons,
            "p_value": calibrated.p_value_N.tolist(),
            "statistic": statistic_NR[:, 0].tolist(),
            "q": outcome.q.tolist(),
            "q_caption": outcome.q_caption.tolist(),
            "q_by_view": outcome.q_by_view_NV.tolist(),
            "worst_view": [views[view] for view in outcome.worst_view.tolist()],
            **_beside(aligned.beside, len(dataset)),
            "cosine": own.tolist(),
            "cosine_z": z.tolist(),
            "trained_cosine": [None] * len(dataset) if trained_N is None else trained_N.tolist(),
            "win_probability": outcome.win_probability.tolist(),
            "win_probability_64": outcome.win_probability_64.tolist(),
            "win_probability_1024": outcome.win_probability_1024.tolist(),
            "wins": outcome.wins.tolist(),
            "rounds": [judging.contest.rounds] * len(dataset),
            "never_wins_probability": outcome.never_wins_probability.tolist(),
            "never_wins": outcome.never_wins.tolist(),
            "caption_disagreement": agreement[0][:, 0].tolist(),
            "image_disagreement": agreement[1][:, 0].tolist(),
            "trait_p": aligned.traits.p_N.tolist(),
            "texture": aligned.traits.texture_N.tolist(),
            "patch": aligned.traits.patch_N.tolist(),
            "patch_x": aligned.traits.patch_x_N.tolist(),
            "patch_y": aligned.traits.patch_y_N.tolist(),
            "stamp": [number or None for number in aligned.stamps.number_N.tolist()],
            "stamp_kind": aligned.stamps.kinds(),
            "n_stamp": aligned.stamps.carriers().tolist(),
            **_density(near, judging.evidence),
            "same_group": aligned.copies.same_N.tolist(),
            "n_same": aligned.copies.n_same_N.tolist(),
            "n_same_captions": aligned.copies.n_same_captions_N.tolist(),
            "n_conflicts": aligned.copies.n_conflicts_N.tolist(),
            "n_versions": aligned.copies.n_versions_N.tolist(),
            "family": aligned.copies.family_N.tolist(),
            "fold": space.fold_N.tolist(),
        }
        write_stamps(run, aligned.stamps)
        rows = list(zip(*(columns[column.name] for column in EVIDENCE), strict=True))
        for number, shard in enumerate(dataset.shards):
            here = dataset.rows_of(number)
            _write(run, "evidence", shard.id, EVIDENCE, rows[here])
            _write(run, "rivals", shard.id, RIVALS, _rival_rows(dataset, near, rivals, here))
            _write(run, "neighbours", shard.id, NEIGHBOURS, table.rows(dataset, here))
            progress.advance(here.stop - here.start)
    return calibrated


def _write(
    run: RunFolder, stage: str, shard_id: str, columns: tuple[Column, ...], rows: Iterable[tuple[object, ...]]
) -> None:
    with table_writer(run.file(stage, f"{shard_id}.parquet"), columns) as table:
        for row in rows:
            table.add(row)


def _beside(ranks: Ranks | None, n: int) -> dict[str, Iterable[object]]:
    """Return the columns by the encoder that was asked beside the first one, as ``read_contest`` reads those."""
    if ranks is None:
        return {"q_beside": [None] * n, "q_caption_beside": [None] * n}
    q_N, q_caption_N = (q_NVR[:, :, 0].amax(1) for q_NVR in (ranks.caption_q_NVR, ranks.image_q_NVR))
    return {"q_beside": q_N.tolist(), "q_caption_beside": q_caption_N.tolist()}


def _density(near: Neighbourhood, config: EvidenceConfig) -> dict[str, Iterable[object]]:
    """Return the columns that do not depend on the pairing: density, duplicates, anomaly."""
    n = len(near.group_N)
    k = min(config.density_k, near.image_index_NK.shape[1] - 1)
    scores = density_scores(table_from_similarity(near.image_similarity_NK, near.image_index_NK, torch.arange(n), k=k))
    n_duplicates_N, n_captions_N = duplicates(near.group_N, near.caption_N)
    return {
        **{name: score.tolist() for name, score in scores.items()},
        "anomaly": anomaly(scores, n_duplicates_N, n_captions_N).tolist(),
        "duplicate_group": near.group_N.tolist(),
        "n_duplicates": n_duplicates_N.tolist(),
        "n_duplicate_captions": n_captions_N.tolist(),
        "n_caption_repeats": torch.bincount(near.caption_N)[near.caption_N].tolist(),
    }


def _rival_rows(dataset: Dataset, near: Neighbourhood, rivals: Rivals, here: slice) -> Iterable[tuple[object, ...]]:
    for row in range(here.start, here.stop):
        own, text = float(rivals.own_N[row]), near.text_ND[row]
        found = zip(rivals.row_NK[row].tolist(), rivals.cosine_NK[row].tolist(), strict=True)
        for rank, (rival, cosine) in enumerate(found, start=1):
            if rival >= 0:
                yield (
                    dataset.uids[row],
                    rank,
                    dataset.uids[rival],
                    cosine,
                    cosine - own,
                    float(text @ near.text_ND[rival]),
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Neighbours:
    """Distinct neighbours of every pair in both modalities, and the rows that agreement is ranked against."""

    image_similarity_NK: Tensor
    image_index_NK: Tensor
    caption_similarity_NK: Tensor
    caption_index_NK: Tensor
    reference: Tensor

    @classmethod
    def find(cls, near: Neighbourhood, config: EvidenceConfig, *, workers: int) -> _Neighbours:
        image_similarity_NK, image_index_NK = distinct_images(near, config.n_neighbours, workers=workers)
        caption_similarity_NK, caption_index_NK = distinct_captions(near, config.n_neighbours)
        first = first_of_each(near.caption_N)
        return cls(
            image_similarity_NK=image_similarity_NK,
            image_index_NK=image_index_NK,
            caption_similarity_NK=caption_similarity_NK,
            caption_index_NK=caption_index_NK,
            reference=first[evenly_spaced(len(first), config.n_reference)],
        )

    def rows(self, dataset: Dataset, here: slice) -> Iterable[tuple[object, ...]]:
        """Yield the rows of NEIGHBOURS of the pairs of a shard."""
        for row in range(here.start, here.stop):
            for kind, similarity_NK, index_NK in (
                ("image", self.image_similarity_NK, self.image_index_NK),
                ("caption", self.caption_similarity_NK, self.caption_index_NK),
            ):
                found = zip(index_NK[row].tolist(), similarity_NK[row].tolist(), strict=True)
                for rank, (neighbour, similarity) in enumerate(found, start=1):
                    if neighbour >= 0:
                        yield dataset.uids[row], kind, rank, dataset.uids[neighbour], similarity
