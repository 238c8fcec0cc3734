"""What the neighbours say, against brute force in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from roclip_audit.core.groups import first_of_each
from roclip_audit.core.neighbours import nearest
from roclip_audit.sanitize.align import Neighbourhood
from roclip_audit.sanitize.contest import TIE
from roclip_audit.sanitize.neighbour_evidence import caption_vicinity, disagreement, distinct_captions, distinct_images
from tests.sanitize.spacekit import unit


def draw_near(n: int, *, n_looked_up: int = 6, repeats: float = 0.3, seed: int = 0) -> Neighbourhood:
    """Draw a neighbourhood with near-duplicate groups (whose vectors are close) and repeated captions."""
    rng = torch.Generator().manual_seed(seed)

    def numbers() -> Tensor:
        again = torch.rand(n, generator=rng) < repeats
        raw = torch.where(again, torch.randint(max(n, 1), (n,), generator=rng), torch.arange(n)).tolist()
        seen: dict[int, int] = {}
        return torch.tensor([seen.setdefault(x, len(seen)) for x in raw], dtype=torch.int64)

    group_N, caption_N = numbers(), numbers()
    image_ND = torch.nn.functional.normalize(unit(n, 7, rng=rng)[group_N] + 0.01 * unit(n, 7, rng=rng), dim=1)
    text_ND = unit(n, 6, rng=rng)[caption_N]
    similarity, index = nearest(image_ND, image_ND, n_looked_up)
    number_C, text_CD = torch.arange(int(caption_N.max()) + 1), text_ND[first_of_each(caption_N)]
    of_caption = nearest(text_CD, text_CD, n_looked_up, query_group_N=number_C, base_group_M=number_C)
    return Neighbourhood(
        image_ND=image_ND,
        text_ND=text_ND,
        image_similarity_NK=similarity,
        image_index_NK=index,
        caption_similarity_CK=of_caption[0],
        caption_index_CK=of_caption[1],
        caption_N=caption_N,
        group_N=group_N,
    )


sizes = st.integers(1, 30)
seeds = st.integers(0, 999)


@given(sizes, st.integers(1, 8), st.integers(1, 12), st.sampled_from([0.0, 0.5, 1.0]), seeds)
@settings(max_examples=25)
def test_distinct_images_equal_brute_force(n: int, k: int, n_looked_up: int, repeats: float, seed: int) -> None:
    near = draw_near(n, n_looked_up=n_looked_up, repeats=repeats, seed=seed)
    similarity, index = distinct_images(near, k, workers=1)
    assert similarity.shape == index.shape == (n, k)
    cosine = (near.image_ND.double() @ near.image_ND.double().T).tolist()
    for row in range(n):
        others = [x for x in range(n) if near.group_N[x] != near.group_N[row]]
        best = sorted((cosine[row][x] for x in others), reverse=True)[:k]
        found = [x for x in index[row].tolist() if x >= 0]
        assert len(found) == len(set(found)) == len(best)
        assert set(found) <= set(others)
        assert similarity[row, : len(best)].tolist() == pytest.approx(best, abs=2e-6)
        assert similarity[row, len(best) :].isneginf().all()
        assert [cosine[row][x] for x in found] == pytest.approx(best, abs=2e-6)


@given(sizes, st.integers(1, 8), seeds)
@settings(max_examples=25)
def test_distinct_captions_equal_brute_force(n: int, k: int, seed: int) -> None:
    near = draw_near(n, n_looked_up=8, seed=seed)
    similarity, index = distinct_captions(near, k)
    cosine = (near.text_ND.double() @ near.text_ND.double().T).tolist()
    for row in range(n):
        one_of_each = {int(near.caption_N[x]): x for x in reversed(range(n))}
        others = [x for number, x in one_of_each.items() if number != near.caption_N[row]]
        best = sorted((cosine[row][x] for x in others), reverse=True)[:k]
        found = [x for x in index[row].tolist() if x >= 0]
        assert set(found) <= set(others)
        assert similarity[row, : len(best)].tolist() == pytest.approx(best, abs=2e-6)
        assert [cosine[row][x] for x in found] == pytest.approx(best, abs=2e-6)


@given(sizes, st.sampled_from([0.0, 0.4, 1.0]), seeds)
@settings(max_examples=25)
def test_vicinity_equals_brute_force(n: int, repeats: float, seed: int) -> None:
    near = draw_near(n, n_looked_up=4, repeats=repeats, seed=seed)
    value = torch.rand(n, generator=torch.Generator().manual_seed(seed)).double()
    total, weight = caption_vicinity(value, near)
    pairs_of = [
        torch.nonzero(near.caption_N == number)[:, 0].tolist() for number in range(int(near.caption_N.max()) + 1)
    ]
    for row in range(n):
        number = int(near.caption_N[row])
        around = [value[pairs_of[x]].mean().item() for x in near.caption_index_CK[number].tolist() if x >= 0]
        same = [value[x].item() for x in pairs_of[number] if x != row]
        counts = min(4, len(same))
        expected = sum(around) + (counts * sum(same) / len(same) if same else 0.0)
        assert float(total[row]) == pytest.approx(expected)
        assert float(weight[row]) == len(around) + counts


def share_better(
    vectors: list[list[float]], number: Tensor, judged: int, voters: list[int], reference: list[int]
) -> float:
    if not voters:
        return 0.5
    centre = [sum(vectors[x][d] for x in voters) for d in range(len(vectors[0]))]

    def agreement(x: int) -> float:
        return sum(a * b for a, b in zip(vectors[x], centre, strict=True))

    others = [x for x in reference if number[x] != number[judged]]
    return sum(agreement(x) > agreement(judged) + 3 * TIE for x in others) / max(1, len(others))


@given(st.integers(1, 20), st.sampled_from([0.0, 0.4]), st.integers(1, 3), seeds)
@settings(max_examples=20)
def test_disagreement_equals_brute_force(n: int, repeats: float, n_controls: int, seed: int) -> None:
    near = draw_near(n, repeats=repeats, seed=seed)
    control = torch.randint(n, (n, n_controls), generator=torch.Generator().manual_seed(seed))
    (_, image_index), (_, caption_index) = distinct_images(near, 3, workers=1), distinct_captions(near, 3)
    reference = first_of_each(near.caption_N)[::2]
    of_caption, of_image = disagreement(near, image_index, caption_index, reference, control)
    assert of_caption.shape == of_image.shape == (n, 1 + n_controls)
    image, text, group = near.image_ND.double().tolist(), near.text_ND.double().tolist(), near.group_N
    for row in range(n):
        for reading, partner in enumerate([row, *control[row].tolist()]):
            voters = [x for x in image_index[row].tolist() if x >= 0 and group[x] != group[partner]]
            expected = share_better(text, near.caption_N, partner, voters, reference.tolist())
            assert float(of_caption[row, reading]) == pytest.approx(expected)
            voters = [
                x for x in caption_index[partner].tolist() if x >= 0 and group[x] not in (group[row], group[partner])
            ]
            expected = share_better(image, group, row, voters, reference.tolist())
            assert float(of_image[row, reading]) == pytest.approx(expected)


def test_a_control_does_not_vouch_for_itself() -> None:
    """Pairs in twos whose images are each other's only near neighbours: the partner's caption is still a stranger."""
    n = 200
    rng = torch.Generator().manual_seed(0)
    centre = unit(n // 2, 32, rng=rng).repeat_interleave(2, 0)
    image_ND = torch.nn.functional.normalize(centre + 0.3 * unit(n, 32, rng=rng), dim=1)
    near = draw_near(n, repeats=0.0)
    similarity, index = nearest(image_ND, image_ND, 6)
    fields = {name: getattr(near, name) for name in Neighbourhood.__dataclass_fields__}
    fields |= {"image_ND": image_ND, "image_similarity_NK": similarity, "image_index_NK": index}
    near = Neighbourhood(**fields)
    partner = torch.arange(n).view(-1, 2).flip(1).reshape(n, 1)
    _, image_index = distinct_images(near, 1, workers=1)
    assert torch.equal(image_index, partner)
    of_caption, _ = disagreement(near, image_index, distinct_captions(near, 3)[1], torch.arange(n), partner)
    assert (of_caption[:, 1] == 0.5).all()  # nobody else is left to ask


def test_neighbours_that_fit_agree_and_strangers_do_not() -> None:
    rng = torch.Generator().manual_seed(0)
    hidden = unit(12, 16, rng=rng).repeat_interleave(20, 0)
    vectors = torch.nn.functional.normalize(hidden + 0.5 * unit(240, 16, rng=rng), dim=1)
    number = torch.arange(240)
    similarity, index = nearest(vectors, vectors, 9)
    other = nearest(vectors, vectors, 8, query_group_N=number, base_group_M=number)
    near = Neighbourhood(
        image_ND=vectors,
        text_ND=vectors,
        image_similarity_NK=similarity,
        image_index_NK=index,
        caption_similarity_CK=other[0],
        caption_index_CK=other[1],
        caption_N=number,
        group_N=number,
    )
    control = (number[:, None] + 20 * torch.tensor([[1, 5]])) % 240
    _, image_index = distinct_images(near, 8, workers=1)
    for share in disagreement(near, image_index, distinct_captions(near, 8)[1], number, control):
        assert share[:, 0].mean() < 0.06
        assert share[:, 1:].mean() == pytest.approx(0.5, abs=0.06)


def test_captions_that_the_encoder_cannot_tell_apart_do_not_beat_each_other() -> None:
    near = draw_near(300, repeats=0.0)
    same = near.text_ND[:1].repeat(300, 1)
    near = Neighbourhood(
        **{name: getattr(near, name) for name in Neighbourhood.__dataclass_fields__} | {"text_ND": same}
    )
    _, image_index = distinct_images(near, 5, workers=1)
    nobody = torch.full((300, 2), -1)
    of_caption, of_image = disagreement(near, image_index, nobody, torch.arange(300), torch.arange(300)[:, None])
    assert of_caption.max() == 0
    assert (of_image == 0.5).all()
    assert not math.isnan(float(of_caption.sum()))
