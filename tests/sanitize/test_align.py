"""Cross-fitted alignment on pairs of known kind: who is judged by whom, what is learned, degenerate data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.neighbours import nearest
from roclip_audit.sanitize.align import (
    AlignConfig,
    Neighbourhood,
    cluster_captions,
    deal,
    fit_space,
    joint_space,
    neighbourhood,
    own_cosines,
    reduce_images,
    train_on_all,
)
from roclip_audit.sanitize.dataset import Dataset, RowArray
from roclip_audit.sanitize.space import Space
from tests.sanitize.datakit import SMALL_HEADS, as_dataset, make_pairs, run_folder

CONFIG = AlignConfig(n_folds=3, heads=SMALL_HEADS, feature_dim=16)


def near_of(dataset: Dataset, tmp_path: Path) -> tuple[RowArray, Neighbourhood]:
    image = reduce_images(dataset, run_folder(tmp_path), CONFIG, joint=False, seed=0, workers=1)
    return image, neighbourhood(dataset, image, CONFIG, workers=1)


def fit(dataset: Dataset, tmp_path: Path, *, workers: int = 1, fold: torch.Tensor | None = None) -> Space:
    image, near = near_of(dataset, tmp_path)
    fold_N = deal(near, CONFIG, 0).by_image_N if fold is None else fold
    trusted = torch.ones(len(dataset), dtype=torch.bool)
    return fit_space(
        "space", dataset, image, near, fold_N, run_folder(tmp_path), CONFIG, trusted_N=trusted, seed=0, workers=workers
    )


def rank_share(space: Space, rows: torch.Tensor) -> float:
    score = space.image_NVD[rows, 0] @ space.text_ND[rows].T
    return float((score > score.diagonal()[:, None]).float().mean())


def test_a_space_is_learned_out_of_fold(tmp_path: Path) -> None:
    made = make_pairs(300, mismatched=0.1)
    space = fit(made.dataset, tmp_path)
    assert space.image_NVD.shape == (300, 2, SMALL_HEADS.dim)
    torch.testing.assert_close(space.text_ND.norm(dim=1), torch.ones(300))
    sound, bad = torch.from_numpy(~made.mismatched_N), torch.from_numpy(made.mismatched_N)
    shares = [rank_share(space, torch.nonzero(sound & (space.fold_N == fold))[:, 0]) for fold in range(3)]
    assert max(shares) < 0.12
    for fold in range(3):
        rows = torch.nonzero(space.fold_N == fold)[:, 0]
        score = space.image_NVD[rows, 0] @ space.text_ND[rows].T
        q = (score > score.diagonal()[:, None]).float().mean(1)
        assert q[bad[rows]].mean() > 0.25  # not memorised


def test_the_heads_of_a_fold_never_saw_it_nor_near_duplicates_of_it(tmp_path: Path) -> None:
    """Spoil everything that the heads of fold 0 must not see: they stay the same, bit for bit."""
    made = make_pairs(120)
    image = made.dataset.image_NVF[:].numpy()
    image[61:71] = image[:10] + 1e-3  # near-duplicates, dealt into other folds by hand
    fold = torch.arange(120) % 3
    heads = []
    for spoil in (False, True):
        features, text = image.copy(), made.dataset.text_NG[:].numpy()
        dataset = as_dataset(features, text, made.dataset.captions)
        reduced, near = near_of(dataset, tmp_path / str(spoil))
        groups = {int(near.group_N[x]) for x in torch.nonzero(fold == 0)[:, 0]}
        assert len(groups & {int(near.group_N[x]) for x in torch.nonzero(fold != 0)[:, 0]}) > 3
        if spoil:
            hidden = torch.tensor([int(near.group_N[x]) in groups for x in range(120)])
            parts = reduced[:].numpy()
            parts[hidden.numpy()] = 0.5
            text[hidden.numpy()] = 0.5
            reduced, dataset = RowArray.of([parts]), as_dataset(features, text, made.dataset.captions)
        run = run_folder(tmp_path / str(spoil))
        trusted = torch.ones(120, dtype=torch.bool)
        fit_space("s", dataset, reduced, near, fold, run, CONFIG, trusted_N=trusted, seed=0, workers=1)
        heads.append(load_file(run.file("align", "s-0.safetensors")))
    assert heads[0].keys() == heads[1].keys()
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_what_is_not_trusted_is_not_trained_on(tmp_path: Path) -> None:
    made = make_pairs(120, mismatched=0.3)
    image, near = near_of(made.dataset, tmp_path)
    fold, run = torch.arange(120) % 3, run_folder(tmp_path)
    states = []
    for trusted in (torch.ones(120, dtype=torch.bool), torch.from_numpy(~made.mismatched_N)):
        fit_space("s", made.dataset, image, near, fold, run, CONFIG, trusted_N=trusted, seed=0, workers=1)
        states.append(load_file(run.file("align", "s-1.safetensors")))
    assert not torch.equal(states[0]["image.mean"], states[1]["image.mean"])
    rows = torch.nonzero(torch.from_numpy(~made.mismatched_N) & (fold != 1))[:, 0]
    rows = rows[~torch.isin(near.group_N[rows], near.group_N[fold == 1])]
    torch.testing.assert_close(states[1]["text.mean"], made.dataset.text_NG[rows].mean(0))


def test_what_does_not_belong_together_is_learned_last(tmp_path: Path) -> None:
    made = make_pairs(400, mismatched=0.1)
    image, near = near_of(made.dataset, tmp_path)
    heads = train_on_all(image, made.dataset.text_NG, near.caption_N, SMALL_HEADS, 0)
    cosine_N = own_cosines(heads, image, made.dataset.text_NG)
    assert cosine_N.shape == (400,)
    assert float(cosine_N.abs().max()) <= 1 + 1e-5
    bad_N = torch.from_numpy(made.mismatched_N)
    below = (cosine_N[bad_N][:, None] < cosine_N[~bad_N]).float().mean()
    assert float(below) > 0.9


def test_the_number_of_workers_changes_no_bit(tmp_path: Path) -> None:
    made = make_pairs(90)
    one, two = (fit(made.dataset, tmp_path / str(workers), workers=workers) for workers in (1, 2))
    assert torch.equal(one.image_NVD, two.image_NVD)
    assert torch.equal(one.text_ND, two.text_ND)
    assert torch.equal(one.fold_N, two.fold_N)


def test_folds_keep_clusters_and_groups_whole(tmp_path: Path) -> None:
    made = make_pairs(200)
    _, near = near_of(made.dataset, tmp_path)
    folds = deal(near, CONFIG, 0)
    for number, fold in ((folds.cluster_N, folds.by_caption_N), (near.group_N, folds.by_image_N)):
        assert 0 <= fold.min() <= fold.max() < 3
        assert all(len(fold[number == one].unique()) == 1 for one in number.unique())
    pairs = torch.stack([folds.by_caption_N, folds.by_image_N], 1)
    assert len(folds.stratum.unique()) == len(pairs.unique(dim=0))


def test_equal_captions_are_one_cluster(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    text = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(10, 8)).astype(np.float32)), dim=1)
    cluster = cluster_captions(text.repeat(30, 1), 4, seed=1)
    assert torch.equal(cluster, cluster[:10].repeat(30))
    assert torch.equal(cluster, cluster_captions(text.repeat(30, 1), 4, seed=1))


def test_neighbours_and_groups(tmp_path: Path) -> None:
    made = make_pairs(60)
    image = made.dataset.image_NVF[:].numpy()
    image[30:33] = image[0]
    captions = [*made.dataset.captions[:50], *["Caption  NUMBER 3!"] * 10]
    dataset = as_dataset(image, made.dataset.text_NG[:].numpy(), captions)
    _, near = near_of(dataset, tmp_path)
    assert near.group_N[30:33].tolist() == [int(near.group_N[0])] * 3
    assert near.caption_N.tolist() == [*range(50), *[3] * 10]
    assert near.caption_index_CK.shape == (50, CONFIG.n_neighbours)
    assert not (near.caption_index_CK == torch.arange(50)[:, None]).any()
    expected = nearest(near.text_ND[:50], near.text_ND[:50], 5)[1][:, 1:]
    assert torch.equal(near.caption_index_CK[:, :4], expected)


@pytest.mark.parametrize("n", [0, 1, 19])
def test_too_few_pairs(n: int, tmp_path: Path) -> None:
    made = make_pairs(30)
    _, near = near_of(made.dataset, tmp_path)
    few = Neighbourhood(**{name: getattr(near, name)[:n] for name in Neighbourhood.__dataclass_fields__})
    with pytest.raises(ConfigError, match=f"only {n} scored pairs"):
        deal(few, CONFIG, 0)


def test_too_many_folds(tmp_path: Path) -> None:
    made = make_pairs(30)
    _, near = near_of(made.dataset, tmp_path)
    with pytest.raises(ConfigError, match="30 scored pairs are too few for 50 folds; use --folds 7"):
        deal(near, AlignConfig(n_folds=50), 0)


@pytest.mark.parametrize("alike", ["images", "captions", "both"])
def test_data_in_which_everything_is_alike_is_scored_all_the_same(alike: str, tmp_path: Path) -> None:
    made = make_pairs(40)
    image, text, captions = made.dataset.image_NVF[:].numpy(), made.dataset.text_NG[:].numpy(), made.dataset.captions
    if alike != "captions":
        image[:] = image[0]
    if alike != "images":
        text[:], captions = text[0], ["one"] * 40
    dataset = as_dataset(image, text, captions)
    _, near = near_of(dataset, tmp_path)
    folds = deal(near, CONFIG, 0)
    for fold_N in (folds.by_caption_N, folds.by_image_N):
        space = fit(dataset, tmp_path, fold=fold_N)
        assert space.image_NVD.isfinite().all()
        assert space.text_ND.isfinite().all()


def test_a_joint_space_is_the_encoders_own_at_unit_length(tmp_path: Path) -> None:
    made = make_pairs(50, joint=True)
    space = joint_space("joint", made.dataset.image_NVF, made.dataset.text_NG, run_folder(tmp_path))
    expected = torch.nn.functional.normalize(made.dataset.image_NVF[:], dim=-1)
    assert torch.equal(space.image_NVD, expected)
    assert space.fold_N.tolist() == [0] * 50


@pytest.mark.parametrize(
    "wrong",
    [{"n_folds": 1}, {"duplicate_cosine": 0.0}, {"duplicate_cosine": 1.1}, {"doubted_share": 1.0}, {"feature_dim": 0}],
)
def test_refuses_settings_that_cannot_work(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        AlignConfig(**wrong)  # type: ignore[arg-type]
