"""What did a defence buy? Zero-shot accuracy, linear probe, retrieval and attack success of trained models.

    config = EvalConfig(checkpoints=("runs/defended",), undefended="runs/plain", data="val/", attack=Path("x-truth"))
    report = evaluate(config)
    report.as_json()

Files in, one report out. For a model in memory there are the parts: `embedder.Embedder` and `embed_images`,
`zero_shot`, `probe`, `retrieval`, `targeted`, `backdoor`. This module imports no torch.
"""

from __future__ import annotations

from roclip_audit.train.evaluation.config import EvalConfig
from roclip_audit.train.evaluation.evaluate_checkpoints import evaluate
from roclip_audit.train.evaluation.report import EvalReport

__all__ = ["EvalConfig", "EvalReport", "evaluate"]
