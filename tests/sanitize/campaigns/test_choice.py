"""What is found in planted data, and that nothing is found in clean data at the stated rate."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from roclip_audit.core.errors import ConfigError
from roclip_audit.sanitize.campaigns.choice import CampaignConfig, Found, choose
from roclip_audit.sanitize.campaigns.groups import candidate_groups, group_of
from roclip_audit.sanitize.campaigns.scored import Scored
from tests.sanitize.campaigns.campaignkit import NOUNS, clean_captions, clean_p, scored_of

CONFIG = CampaignConfig()


def campaigns(scored: Scored, config: CampaignConfig = CONFIG) -> list[Found]:
    return choose(candidate_groups(scored, seed=0), scored.p_value_N > config.unrelated, config)


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
    extra = group_of(scored, "trait", "stripes", range(40))
    found = choose([*candidate_groups(scored, seed=0), extra], scored.p_value_N > 0.2, CONFIG)
    assert [(one.group.kind, one.group.label) for one in found] == [("trait", "stripes")]


@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_clean_data_give_campaigns_at_most_at_the_stated_rate(spread: float) -> None:
    """Topics of sound pairs may differ in how well they are seen; 40 data sets at level 0.05."""
    n_false = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        captions = clean_captions(800, rng)
        hard = dict(zip(NOUNS, rng.beta(0.1 / max(spread, 1e-4), 0.9 / max(spread, 1e-4), len(NOUNS)), strict=True))
        share = np.array([hard[caption.split()[0]] if spread else 0.1 for caption in captions])
        p = np.where(rng.random(800) < share, rng.uniform(0.2, 1, 800), rng.random(800) * 0.2)
        n_false += bool(campaigns(scored_of(captions, p)))
    assert n_false <= 5  # 40 x 0.05 = 2; more than 5 happens once in 70 data sets that just keep the level


def test_groups_of_two_nothing_suspicious_and_few_pairs_are_no_campaigns() -> None:
    rng = np.random.default_rng(4)
    assert campaigns(scored_of(clean_captions(300, rng), np.zeros(300))) == []
    captions, p = clean_captions(300, rng), np.full(300, 0.01)
    captions[:2], p[:2] = ["banana a", "banana b"], 0.99
    assert campaigns(scored_of(captions, p)) == []
    assert campaigns(scored_of(["one", "two"], np.array([0.9, 0.1]))) == []


def test_a_significant_but_small_excess_is_no_campaign() -> None:
    rng = np.random.default_rng(5)
    captions, p = clean_captions(4_000, rng), np.where(rng.random(4_000) < 0.02, 0.9, 0.01)
    for row in range(500):
        captions[row] = f"banana {captions[row]}"
    p[:500] = np.where(rng.random(500) < 0.15, 0.9, 0.01)
    scored = scored_of(captions, p)
    assert campaigns(scored) == []
    assert campaigns(scored, dataclasses.replace(CONFIG, min_excess=0.02))


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError):
        CampaignConfig(unrelated=1.0)
