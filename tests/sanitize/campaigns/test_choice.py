"""What is found in planted data, and that nothing is found in clean data at the stated rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.schema import TRAIT_P
from roclip_audit.sanitize.campaigns.choice import STAMP_SEARCHES, CampaignConfig, Found, carriers, choose
from roclip_audit.sanitize.campaigns.groups import Group, candidate_groups, group_of, stamped_groups, traced_groups
from roclip_audit.sanitize.campaigns.scored import Scored
from roclip_audit.sanitize.stamps.told import Told
from tests.sanitize.campaigns.campaignkit import NOUNS, clean_captions, clean_p, scored_of

CONFIG = CampaignConfig()


def campaigns(scored: Scored, config: CampaignConfig = CONFIG) -> list[Found]:
    return chosen(scored, candidate_groups(scored, seed=0), config)


def chosen(scored: Scored, groups: Sequence[Group], config: CampaignConfig = CONFIG) -> list[Found]:
    traced_N = scored.trait_p_N <= TRAIT_P
    suspicious_N = scored.p_value_N > config.unrelated
    return choose(groups, traced_groups(groups, scored, traced_N), suspicious_N, traced_N, config)


def test_an_attack_with_templates_is_one_campaign_and_named_by_its_target() -> None:
    rng = np.random.default_rng(0)
    captions, p = clean_captions(2_000, rng), clean_p(2_000, rng)
    for start, target in ((0, "banana"), (30, "guitar")):
        for row in range(start, start + 30):
            captions[row] = f"a {rng.choice(['photo', 'sketch', 'painting'])} of {rng.choice(['the', 'a'])} {target}"
            p[row] = rng.uniform(0.1, 1.0)
    found = campaigns(scored_of(captions, p))
    assert sorted(one.group.label for one in found) == ["banana", "guitar"]
    banana = next(one for one in found if one.group.label == "banana")
    assert banana.group.rows.tolist() == list(range(30))
    assert banana.n_suspicious == int((p[:30] > CONFIG.unrelated).sum())
    assert banana.base_rate == pytest.approx(float((p[30:] > CONFIG.unrelated).mean()))
    assert banana.p_value <= banana.p_corrected <= CONFIG.level


def test_one_picture_under_many_captions_is_a_campaign_of_that_kind_only() -> None:
    rng = np.random.default_rng(1)
    captions, p = clean_captions(1_500, rng), clean_p(1_500, rng)
    p[:30] = rng.uniform(0.3, 1.0, 30)
    for row in range(30):
        captions[row] = f"bird {captions[row]}"
    duplicate = [0] * 30 + list(range(30, 1_500))
    assert [one.group.kind for one in campaigns(scored_of(captions, p, duplicate=duplicate))] == ["duplicate_image"]


@pytest.mark.parametrize("fits", [True, False])
def test_carriers_of_a_stamp_are_one_campaign_whether_their_captions_fit_or_not(*, fits: bool) -> None:
    rng = np.random.default_rng(1)
    captions, p = clean_captions(1_500, rng), clean_p(1_500, rng)
    stamp = np.zeros(1_500, np.int64)
    stamp[:30] = 1
    p[:30] = 0.01 if fits else 0.9
    for row in range(30):
        captions[row] = f"bird {captions[row]}"
    scored = scored_of(captions, p, stamp=stamp)
    (group,) = stamped_groups(scored, 1)
    assert (group.kind, group.rows.tolist()) == ("stamp", list(range(30)))
    assert group.label.split(", ")[0] == "bird"
    told = Told(
        kind="place",
        x=0.9,
        y=0.9,
        coherence=0.5,
        p_value=2.0**-30,
        p_adjusted=2.0**-23,
        n_tested=128,
        by_captions=False,
    )
    known = carriers([group], [told])
    groups, suspicious_N = candidate_groups(scored, seed=0), p > CONFIG.unrelated
    traced_N = np.arange(1_500) < 200
    of_traced = traced_groups(groups, scored, traced_N)
    assert any(one.group.label == "bird" for one in choose(groups, of_traced, suspicious_N, traced_N, CONFIG)) != fits
    (found,) = choose(groups, of_traced, suspicious_N, traced_N, CONFIG, known=known)
    assert (found.group.kind, found.n_suspicious, found.base_rate) == ("stamp", 30, 0.0)
    n_kinds = len({one.kind for one in [*groups, *of_traced]}) + STAMP_SEARCHES
    assert (found.p_corrected, found.n_tested, found.shows) == (n_kinds * 2.0**-23, 128, "place")


@pytest.mark.parametrize(("p_value", "n"), [(0.0016, 1), (0.0017, 0)])
def test_a_stamp_shares_the_level_with_the_other_kinds(p_value: float, n: int) -> None:
    """Of one kind of groups and two searches for stamps, each has a third of the level of 0.05."""
    rng = np.random.default_rng(1)
    stamp = np.zeros(1_500, np.int64)
    stamp[:30] = 1
    scored = scored_of(clean_captions(1_500, rng), clean_p(1_500, rng), stamp=stamp)
    groups = candidate_groups(scored, seed=0)
    assert {group.kind for group in groups} == {"captions"}
    told = Told(
        kind="tone", x=None, y=None, coherence=0.5, p_value=p_value, p_adjusted=1e-4, n_tested=10, by_captions=False
    )
    known = carriers(stamped_groups(scored, 1), [told])
    nobody_N = np.zeros(1_500, dtype=bool)
    assert len(choose(groups, [], nobody_N, nobody_N, CONFIG, known=known)) == n


def test_copies_of_one_doubtful_picture_are_no_campaign_of_a_word() -> None:
    rng = np.random.default_rng(1)
    captions, p = clean_captions(1_500, rng), clean_p(1_500, rng)
    captions[:30], p[:30] = ["bird", "a bird", "one bird"] * 10, 0.9
    assert campaigns(scored_of(captions, p, duplicate=[0] * 30 + list(range(30, 1_500)))) == []


def test_a_domain_is_a_campaign() -> None:
    rng = np.random.default_rng(2)
    captions, p = clean_captions(2_000, rng), clean_p(2_000, rng)
    urls = [f"https://{'bad' if row < 60 else f'site{row % 40}'}.example/{row}" for row in range(2_000)]
    p[:60] = rng.uniform(0.1, 1.0, 60)
    found = campaigns(scored_of(captions, p, urls=urls))
    assert [(one.group.kind, one.group.label) for one in found] == [("domain", "bad.example")]


def test_groups_that_a_caller_adds_keep_their_kind() -> None:
    rng = np.random.default_rng(3)
    scored = scored_of(clean_captions(1_000, rng), clean_p(1_000, rng))
    scored.p_value_N[:40] = 0.9
    extra = group_of(scored, "uploader", "mallory", range(20))
    found = chosen(scored, [*candidate_groups(scored, seed=0), extra])
    assert [(one.group.kind, one.group.label) for one in found] == [("uploader", "mallory")]


@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_clean_data_give_campaigns_at_most_at_the_stated_rate(spread: float) -> None:
    """Topics of sound pairs may differ in how well they are seen; 20 data sets at level 0.05."""
    n_false = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        captions = clean_captions(800, rng)
        hard = dict(zip(NOUNS, rng.beta(0.1 / max(spread, 1e-4), 0.9 / max(spread, 1e-4), len(NOUNS)), strict=True))
        topics = [next(word for word in caption.split() if word in hard) for caption in captions]
        share = np.array([hard[topic] if spread else 0.1 for topic in topics])
        p = np.where(rng.random(800) < share, rng.uniform(0.2, 1, 800), rng.random(800) * 0.2)
        n_false += bool(campaigns(scored_of(captions, p)))
    assert n_false <= 4  # more than 4 of 20 happen with probability 0.003 if the level is just kept


def test_groups_of_two_nothing_suspicious_and_few_pairs_are_no_campaigns() -> None:
    rng = np.random.default_rng(4)
    assert campaigns(scored_of(clean_captions(300, rng), np.zeros(300))) == []
    captions, p = clean_captions(300, rng), np.full(300, 0.01)
    captions[:2], p[:2] = ["banana a", "banana b"], 0.99
    assert campaigns(scored_of(captions, p)) == []
    assert campaigns(scored_of(["one", "two"], np.array([0.9, 0.1]))) == []


def test_a_significant_but_small_excess_is_no_campaign() -> None:
    rng = np.random.default_rng(5)
    captions, p = clean_captions(2_000, rng), np.where(rng.random(2_000) < 0.02, 0.9, 0.01)
    for row in range(300):
        captions[row] = f"banana {captions[row]}"
    p[:300] = np.where(rng.random(300) < 0.4, 0.9, 0.01)
    scored = scored_of(captions, p)
    assert [one.group.label for one in campaigns(scored)] == ["banana"]
    assert campaigns(scored, dataclasses.replace(CONFIG, min_excess=0.5)) == []


def test_pairs_that_share_a_trait_are_compared_with_others_that_do() -> None:
    """Fifteen of 75 bananas are planted and share a trait; honest families share traits, too, and fit as badly."""
    rng = np.random.default_rng(6)
    captions, p = clean_captions(2_000, rng), clean_p(2_000, rng)
    trait = np.where(np.arange(2_000) < 400, 0.01, 1.0)
    p[:400] = np.where(rng.random(400) < 0.15, 0.9, 0.01)
    for row in [*range(400, 460), *range(15)]:
        captions[row] = f"banana {captions[row]}"
    p[:15], p[400:460] = 0.9, 0.01
    found = campaigns(scored_of(captions, p, trait_p=trait))
    assert [(one.group.kind, one.group.label) for one in found] == [("trait", "banana")]
    assert found[0].group.rows.tolist() == list(range(15))
    assert found[0].base_rate == pytest.approx(float((p[15:400] > CONFIG.unrelated).mean()))
    assert campaigns(scored_of(captions, p)) == []


@pytest.mark.parametrize("first", ["sound", "planted"])
def test_sound_look_alikes_do_not_stand_for_planted_ones(first: str) -> None:
    """Each planted picture has a sound look-alike of the same word without the trait, before it or after it."""
    rng = np.random.default_rng(6)
    captions, p = clean_captions(2_000, rng), clean_p(2_000, rng)
    sound, planted = (range(15), range(15, 30)) if first == "sound" else (range(15, 30), range(15))
    trait = np.where(np.arange(2_000) < 400, 0.01, 1.0)
    p[30:400] = np.where(rng.random(370) < 0.15, 0.9, 0.01)
    for row in range(30):
        captions[row] = f"banana {captions[row]}"
    p[sound], trait[sound], p[planted] = 0.01, 1.0, 0.9
    family = [*range(15), *range(15), *range(30, 2_000)]
    found = campaigns(scored_of(captions, p, trait_p=trait, family=family))
    assert [(one.group.kind, one.group.label) for one in found] == [("trait", "banana")]
    assert found[0].group.rows.tolist() == list(planted)


def test_who_planted_it_is_told_beside_what() -> None:
    rng = np.random.default_rng(11)
    captions, p = clean_captions(2_000, rng), clean_p(2_000, rng)
    urls = [f"https://{'evil' if row < 40 else f'site{row % 40}'}.example/{row}" for row in range(2_000)]
    for row in range(40):
        captions[row] = f"banana {captions[row]}"
    p[:40] = 0.9
    trait = np.where(np.arange(2_000) < 40, 0.001, np.where(np.arange(2_000) < 200, 0.02, 1.0))
    found = campaigns(scored_of(captions, p, urls=urls, trait_p=trait))
    assert sorted((one.group.kind, one.group.label) for one in found) == [
        ("domain", "evil.example"),
        ("trait", "banana"),
    ]
    assert len({one.n_tested for one in found}) == 1


def test_an_honest_family_that_shares_a_trait_and_is_seen_badly_is_no_campaign() -> None:
    rng = np.random.default_rng(7)
    captions, p = clean_captions(2_000, rng), clean_p(2_000, rng)
    trait = np.where(np.arange(2_000) < 300, 0.01, 1.0)
    p[:300] = np.where(rng.random(300) < 0.4, 0.9, 0.01)  # traced pairs fit worse than others, whatever the family
    for row in range(20):
        captions[row] = f"dell {captions[row]}"
    p[:20] = [0.9] * 10 + [0.01] * 10
    assert campaigns(scored_of(captions, p, trait_p=trait)) == []


def puzzle(n: int) -> tuple[list[str], np.ndarray]:
    """Return captions and p-values of which the first 30 are pieces of one puzzle that fit badly."""
    rng = np.random.default_rng(9)
    captions, p = clean_captions(n, rng), clean_p(n, rng)
    for row in range(30):
        captions[row] = "jigsaw blue (shape)"
    p[:30] = 0.4
    return captions, p


def test_a_family_of_look_alikes_counts_once() -> None:
    captions, p = puzzle(1_500)
    assert campaigns(scored_of(captions, p, family=[0] * 30 + list(range(30, 1_500)))) == []
    (counted_by_picture,) = campaigns(scored_of(captions, p))
    assert counted_by_picture.group.rows.tolist() == list(range(30))


def test_the_outliers_of_a_family_are_no_campaign() -> None:
    """Of 200 stars that fit, 15 lost their picture: as units they are 15 of 16."""
    rng = np.random.default_rng(10)
    captions, p = clean_captions(2_000, rng), clean_p(2_000, rng)
    for row in range(200):
        captions[row] = f"star {captions[row]}"
    p[:200] = np.where(np.arange(200) < 15, 0.9, 0.01)
    family = [row if row < 15 or row >= 200 else 15 for row in range(2_000)]
    assert campaigns(scored_of(captions, p, family=family)) == []


def test_the_same_pairs_are_told_once() -> None:
    rng = np.random.default_rng(8)
    captions, p = clean_captions(2_000, rng), clean_p(2_000, rng)
    for row in range(30):
        captions[row] = f"banana {captions[row]}"
    p[:30] = 0.9
    trait = np.where(np.arange(2_000) < 30, 0.001, np.where(np.arange(2_000) < 200, 0.02, 1.0))
    assert [one.group.kind for one in campaigns(scored_of(captions, p, trait_p=trait))] == ["trait"]


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError):
        CampaignConfig(unrelated=1.0)
