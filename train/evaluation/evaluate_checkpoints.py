"""Evaluate checkpoints: read the inputs, then load one model at a time and measure all that the inputs allow.

    report = evaluate(EvalConfig(checkpoints=("runs/defended",), undefended="runs/plain", data="val/"))

torch is imported when the work begins, not with this module. For a model in memory: `measure.measure_model`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from roclip_audit.core.progress import Reporter, SilentReporter
from roclip_audit.train.evaluation.config import EvalConfig

if TYPE_CHECKING:
    from roclip_audit.train.evaluation.checkpoints import Checkpoint
    from roclip_audit.train.evaluation.embedder import Embedder
    from roclip_audit.train.evaluation.report import EvalReport


def evaluate(config: EvalConfig, reporter: Reporter | None = None) -> EvalReport:
    """Measure every checkpoint on the same inputs.

    Args:
        config: what is evaluated, on what.
        reporter: told about progress.

    Raises:
        ConfigError: an input or a checkpoint that cannot work, found before any model is loaded.
        EncoderError: a model cannot be loaded, or its features are not finite.
        ShardError: a shard is damaged, or not one picture of an input can be read.
    """
    from roclip_audit.train.distributed import choose_device
    from roclip_audit.train.evaluation.checkpoints import find_checkpoints
    from roclip_audit.train.evaluation.inputs import read_inputs
    from roclip_audit.train.evaluation.measure import measure_model
    from roclip_audit.train.evaluation.report import EvalReport, InputFacts

    device = choose_device(config.device).type
    checkpoints = find_checkpoints(config.checkpoints, config.undefended)
    inputs = read_inputs(config)
    results = []
    facts: tuple[InputFacts, ...] = ()
    for checkpoint in checkpoints:
        embedder = _load(checkpoint, config, device, reporter or SilentReporter())
        result, facts = measure_model(embedder, inputs, checkpoint=checkpoint, seed=config.seed)
        results.append(result)
    return EvalReport(
        models=tuple(results),
        inputs=facts,
        not_measured=inputs.truth.not_measured if inputs.truth is not None else (),
        settings=_settings(config, device),
    )


def _load(checkpoint: Checkpoint, config: EvalConfig, device: str, reporter: Reporter) -> Embedder:
    from roclip_audit.core.checkpoint import load_model
    from roclip_audit.train.evaluation.embedder import Embedder

    reporter.note(f"loading {checkpoint.name}")
    loaded = load_model(checkpoint.spec)
    loaded.model.to(device)
    return Embedder(
        model=loaded, device=device, batch_size=config.batch_size, workers=config.workers, reporter=reporter
    )


def _settings(config: EvalConfig, device: str) -> dict[str, str | int]:
    from importlib.metadata import version

    versions = {package: version(package) for package in ("roclip-audit", "torch", "open_clip_torch")}
    return {"seed": config.seed, "device": device, "templates": str(config.templates or "CLIP's 80"), **versions}
