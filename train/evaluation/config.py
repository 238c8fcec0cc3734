"""What is evaluated, on what, and how it runs; a setting that cannot work fails here, before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from roclip_audit.core.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """One evaluation.

    Args:
        checkpoints: models as `checkpoints.find_checkpoints` takes them; none is fine with ``undefended``.
        undefended: the model trained on the same poisoned data without the defence.
        data: labelled test pictures: shards with a class column, or a folder of class folders.
        probe_train: labelled pictures to train the linear probe on; tested on ``data``.
        retrieval: shards of pairs.
        attack: folder that `poison` wrote the truth to.
        poisoned: shards of the poisoned data; None: the folder beside ``attack`` that its poison.json names.
        templates: file with one prompt template a line; None: CLIP's 80.
        classes: file with the class names, by index; None: those of the data.
        class_key: field of the json that holds the class.
        caption_key: key of the caption of ``retrieval``, as in a scan; None: txt, else ``caption`` or ``text``.
        retrieval_pairs: pairs to draw from ``retrieval``, at least 2.
        device: ``auto``, ``cpu`` or ``cuda``.
        batch_size: pictures or prompts that a model takes at once.
        seed: of the probe's split, the pairs drawn and what differs from stamp to stamp.
        workers: threads; the result does not depend on it.
        max_pixels: larger pictures are not decoded.
    """

    checkpoints: tuple[str, ...] = ()
    undefended: str | None = None
    data: str | None = None
    probe_train: str | None = None
    retrieval: str | None = None
    attack: Path | None = None
    poisoned: str | None = None
    templates: Path | None = None
    classes: Path | None = None
    class_key: str = "class"
    caption_key: str | None = None
    retrieval_pairs: int = 5_000
    device: str = "auto"
    batch_size: int = 64
    seed: int = 0
    workers: int = 1
    max_pixels: int = 50_000_000

    def __post_init__(self) -> None:
        if not self.checkpoints and self.undefended is None:
            raise ConfigError("no checkpoint: name at least one model")
        if self.data is None and self.retrieval is None and self.attack is None and self.probe_train is None:
            raise ConfigError(
                "nothing to measure: give --data LABELLED (zero-shot; with --probe-train LABELLED a linear probe), "
                "--retrieval SHARDS or --attack TRUTH"
            )
        if self.probe_train is not None and self.data is None:
            raise ConfigError("--probe-train: the probe is tested on --data LABELLED; give both")
        if self.attack is not None and self.data is None and self.classes is None:
            raise ConfigError("--attack: which classes? Give --data LABELLED, or --classes FILE for targeted attacks")
        if self.poisoned is not None and self.attack is None:
            raise ConfigError("--poisoned: is read with --attack TRUTH only; give both")
        if self.caption_key is not None and self.retrieval is None:
            raise ConfigError("--caption-key: is read with --retrieval SHARDS only; give both")
        self._check_values()

    def _check_values(self) -> None:
        if self.device not in DEVICES:
            raise ConfigError(f"--device {self.device}: one of {', '.join(DEVICES)}")
        least = {"batch_size": 1, "workers": 1, "max_pixels": 1, "retrieval_pairs": 2, "seed": 0}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ConfigError(f"--{name.replace('_', '-')}: must be at least {smallest}")
        if not self.class_key:
            raise ConfigError("--class-key: must not be empty")
