"""``roclip-audit eval``: what did a defence buy? Accuracy and attack success of trained models, side by side."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from roclip_audit.cli.options import Json, Quiet, Workers
from roclip_audit.cli.render import print_facts, print_json
from roclip_audit.core.errors import EXIT_OK, EXIT_UNREADABLE
from roclip_audit.core.progress import make_reporter

EXAMPLES = """Examples:

\b
  roclip-audit eval runs/defended --undefended runs/plain --data val/ --attack poisoned-truth/
  roclip-audit eval ViT-B-32-quickgelu/openai --data imagenet/val --classes names.json
  roclip-audit eval runs/a runs/b --data test/ --probe-train train/ --retrieval pairs/ --out eval.json

\b
LABELLED is a folder of class folders, or shards whose samples have a member cls or a json field class.
TRUTH is the folder that `roclip-audit poison` wrote the truth to.

Exit codes: 0 ok; 2 usage or configuration; 3 finished, but some pictures could not be read."""


class Device(StrEnum):
    """Where the models run."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def evaluate(
    checkpoints: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CHECKPOINT",
            show_default=False,
            help="Folder of a training run or of an open_clip model, ARCH/TAG, ARCH@FILE, hf-hub:ORG/NAME or "
            "local-dir:PATH; several are compared.",
        ),
    ] = None,
    undefended: Annotated[
        str | None, typer.Option(metavar="CHECKPOINT", help="Trained on the same poisoned data without the defence.")
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="LABELLED", help="Test pictures: zero-shot accuracy.")] = None,
    probe_train: Annotated[
        str | None, typer.Option(metavar="LABELLED", help="Trains a linear probe, tested on --data.")
    ] = None,
    retrieval: Annotated[
        str | None, typer.Option(metavar="SHARDS", help="Pairs: recall of captions and pictures.")
    ] = None,
    attack: Annotated[Path | None, typer.Option(metavar="TRUTH", help="Attacks: how often they succeed.")] = None,
    poisoned: Annotated[
        str | None, typer.Option(metavar="SHARDS", help="Poisoned shards [the folder beside TRUTH].")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Class names by index: a JSON list, or one a line.")
    ] = None,
    class_key: Annotated[str, typer.Option(metavar="KEY", help="Field of the json that names the class.")] = "class",
    templates: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Prompt templates, one a line, with {} [CLIP's 80].")
    ] = None,
    caption_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="With --retrieval: key of the caption in the json, as in scan."),
    ] = None,
    retrieval_pairs: Annotated[int, typer.Option(metavar="N", min=2, help="Pairs drawn for retrieval.")] = 5_000,
    device: Annotated[Device, typer.Option(help="Where the models run.")] = Device.AUTO,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Pictures or prompts at once.")] = 64,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of splits, draws and stamps.")] = 0,
    workers: Workers = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Write everything as JSON, too.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate trained models: zero-shot accuracy, linear probe, retrieval, attack success.

    Measures what it is given the input for. A defence is only shown beside --undefended: an attack that reaches less
    than half of the pictures there proves nothing, and the table says so.
    """
    from roclip_audit.cli.eval_table import describe
    from roclip_audit.core.parallel import default_workers
    from roclip_audit.core.run import write_json
    from roclip_audit.train import evaluation

    config = evaluation.EvalConfig(
        checkpoints=tuple(checkpoints or ()),
        undefended=undefended,
        data=data,
        probe_train=probe_train,
        retrieval=retrieval,
        attack=attack,
        poisoned=poisoned,
        templates=templates,
        classes=classes,
        class_key=class_key,
        caption_key=caption_key,
        retrieval_pairs=retrieval_pairs,
        device=device.value,
        batch_size=batch_size,
        seed=seed,
        workers=workers or default_workers(),
    )
    report = evaluation.evaluate(config, make_reporter(quiet=quiet))
    if out is not None:
        write_json(out, report.as_json())
    if as_json:
        print_json(report.as_json())
    else:
        print_facts(describe(report), warnings=("unreadable", "note"))
    raise typer.Exit(EXIT_UNREADABLE if report.n_unreadable else EXIT_OK)
