"""What a number proves: void, shown, or no baseline; pooled rows have labels of their own."""

from __future__ import annotations

import json

import pytest

from roclip_audit.train.evaluation.pictures import Unread
from roclip_audit.train.evaluation.proportion import Proportion
from roclip_audit.train.evaluation.report import AttackResult, EvalReport, InputFacts, ModelResult, Verdict


def result(k: int, n: int = 100, target: str = "banana", trigger: str = "00-sig") -> AttackResult:
    success, base = Proportion.of(k, n), Proportion.of(0, n)
    return AttackResult(attack="sig", target=target, trigger=trigger, success=success, base=base)


def report(*models: ModelResult) -> EvalReport:
    unread = (Unread(where="a.tar:1", reason="image_truncated"),) * 3
    facts = InputFacts(option="--data", n_pictures=9, n_left_out=1, unread=unread)
    return EvalReport(models=models, inputs=(facts,), not_measured=("mismatch",), settings={"seed": 0})


def defended(k: int) -> ModelResult:
    return ModelResult(name="defended", spec="d", attacks=(result(k),))


@pytest.mark.parametrize(
    ("k", "verdict"), [(0, Verdict.VOID), (49, Verdict.VOID), (50, Verdict.SHOWN), (100, Verdict.SHOWN)]
)
def test_an_undefended_attack_below_a_half_makes_the_defence_void(k: int, verdict: Verdict) -> None:
    undefended = ModelResult(name="plain", spec="p", is_undefended=True, attacks=(result(k),))
    made = report(undefended, defended(1))
    assert made.verdict("sig -> banana [00-sig]") is verdict
    written = json.loads(json.dumps(made.as_json()))
    assert [row["verdict"] for model in written["models"] for row in model["attacks"]] == [verdict.value] * 2
    assert written["undefended"] == "plain"


def test_nothing_tested_is_void() -> None:
    undefended = ModelResult(name="plain", spec="p", is_undefended=True, attacks=(result(0, n=0),))
    assert report(undefended).verdict("sig -> banana [00-sig]") is Verdict.VOID


@pytest.mark.parametrize(("k", "base", "works"), [(90, 49, True), (90, 50, False), (49, 0, False)])
def test_what_is_called_the_target_anyway_is_no_attack(k: int, base: int, works: bool) -> None:
    one = AttackResult(attack="sig", target="a", success=Proportion.of(k, 100), base=Proportion.of(base, 100))
    assert one.works is works
    assert AttackResult(attack="targeted", target="a", success=Proportion.of(1, 1)).works


def test_without_an_undefended_model_nothing_is_shown() -> None:
    made = report(defended(1))
    assert made.verdict("sig -> banana [00-sig]") is Verdict.NO_BASELINE
    assert made.as_json()["undefended"] is None


def test_labels_and_counts() -> None:
    assert result(1).label == "sig -> banana [00-sig]"
    pooled = AttackResult(attack="targeted", target="", n_pooled=3, success=Proportion.of(1, 3))
    assert pooled.label == "targeted, all 3"
    made = report(defended(1))
    assert made.n_unreadable == 3
    assert made.as_json()["inputs"] == {
        "--data": {
            "pictures": 9,
            "left_out": 1,
            "unreadable": 3,
            "unreadable_first": [{"where": "a.tar:1", "reason": "image_truncated"}] * 3,
        }
    }
