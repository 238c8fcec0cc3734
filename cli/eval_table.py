"""The table that ``roclip-audit eval`` prints: a line a measure, a column a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from roclip_audit.cli.render import count
from roclip_audit.core.terminal import printable

if TYPE_CHECKING:
    from roclip_audit.train.evaluation.proportion import Proportion
    from roclip_audit.train.evaluation.report import AttackResult, EvalReport, ModelResult

MAX_NAME_CHARS = 60
REMARKS = {
    "void": "void: it does not work on the undefended model",
    "shown": "",
    "no baseline": "not shown: no undefended model",
}


class Line(NamedTuple):
    """A measure, its value for each model, and what is to be said about it."""

    name: str
    cells: list[str]
    remark: str = ""


def describe(report: EvalReport) -> list[tuple[str, str]]:
    """Return the report as lines of name and value."""
    lines = [Line("", [_heading(model) for model in report.models])]
    lines += [*_zero_shot(report.models), *_probe(report.models), *_retrieval(report.models), *_attacks(report)]
    widths = [max(map(len, column)) for column in zip(*(line.cells for line in lines), strict=True)]
    table = [
        (printable(line.name, limit=MAX_NAME_CHARS), "  ".join([*map(str.ljust, line.cells, widths), line.remark]))
        for line in lines
    ]
    return [*table, *_remarks(report)]


def _heading(model: ModelResult) -> str:
    return printable(model.name, limit=MAX_NAME_CHARS) + (" (undefended)" if model.is_undefended else "")


def share(found: Proportion | None) -> str:
    """Return ``71.2 % (68.0-74.3)``: a share and its 95 % interval; a dash without trials."""
    if found is None or found.share is None:
        return "-"
    return f"{100 * found.share:.1f} % ({100 * found.low:.1f}-{100 * found.high:.1f})"


def _zero_shot(models: Sequence[ModelResult]) -> Iterator[Line]:
    found = [model.zero_shot for model in models if model.zero_shot is not None]
    if not found:
        return
    remark = f"{count(found[0].top1.n, 'picture')}, {found[0].n_classes:,} classes"
    yield Line("zero-shot top-1", [share(one.top1) for one in found], remark)
    if found[0].top5 is not None:
        yield Line("zero-shot top-5", [share(one.top5) for one in found])
    yield Line("mean per class", [f"{100 * one.mean_per_class:.1f} %" for one in found])


def _probe(models: Sequence[ModelResult]) -> Iterator[Line]:
    found = [model.probe for model in models if model.probe is not None]
    if found:
        remark = f"trained on {count(found[0].n_train, 'picture')}"
        yield Line("linear probe", [share(one.accuracy) for one in found], remark)


def _retrieval(models: Sequence[ModelResult]) -> Iterator[Line]:
    found = [model.retrieval for model in models if model.retrieval is not None]
    if not found:
        return
    remark = f"{count(found[0].n_pairs, 'pair')}; equal captions count as hits"
    for k in found[0].image_to_text:
        yield Line(f"image to text R@{k}", [share(one.image_to_text[k]) for one in found], remark)
        remark = ""
    for k in found[0].text_to_image:
        yield Line(f"text to image R@{k}", [share(one.text_to_image[k]) for one in found])


def _attacks(report: EvalReport) -> Iterator[Line]:
    """Yield the success of every attack, and under it what it is compared with."""
    for same in zip(*(model.attacks for model in report.models), strict=True):
        yield from _attack(same, REMARKS[report.verdict(same[0].label)])


def _attack(same: Sequence[AttackResult], verdict: str) -> Iterator[Line]:
    """Yield the lines of one attack; ``same`` has its result for each model."""
    remark = "; ".join(filter(None, (count(same[0].success.n, "picture"), verdict)))
    yield Line(same[0].label, [share(one.success) for one in same], remark)
    if same[0].top5 is not None:
        yield Line("  in the top 5", [share(one.top5) for one in same])
    if same[0].base is not None:
        yield Line("  without the trigger", [share(one.base) for one in same])


def _remarks(report: EvalReport) -> Iterator[tuple[str, str]]:
    """Yield what a person has to know about the numbers."""
    for one in report.inputs:
        if one.n_left_out:
            yield "left out", f"{one.option}: {count(one.n_left_out, 'sample')} without class, caption or picture"
        if one.unread:
            n, first = f"{len(one.unread):,} of {count(one.n_pictures, 'picture')}", one.unread[0]
            yield "unreadable", f"{one.option}: {n}, the first {first.where} ({first.reason}); they count nowhere"
    if any(model.probe is not None and not model.probe.converged for model in report.models):
        yield "note", "a linear probe did not converge in 1,000 iterations"
    if report.not_measured:
        yield "not measured", f"{', '.join(report.not_measured)}: no picture can test it"
    if report.models[0].attacks and not any(model.is_undefended for model in report.models):
        yield "note", "the defence is not shown until an undefended model is beside it: --undefended CHECKPOINT"
