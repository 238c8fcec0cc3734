"""Several triggers for one attack: each planted pair has one of a patch, a colour filter, a warp, ...

What finds an attack by the trait that its pictures share sees each trigger on a part of the pairs only. With several
targets, each trigger calls its own.

Source: Detect-CLIP (arXiv 2502.01385), "multi-trigger": BadNets, Nashville or WaNet drawn uniformly at a rate of 1e-3;
single target (banana), or multi-target (banana, cheeseburger, volcano).
Differs from it: the triggers are dealt out in turn, so that each gets its share also of a few pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.attacks.backdoor import DirtyLabel
from roclip_audit.train.attacks.base import Corpus, Indices, Plant, Trigger
from roclip_audit.train.attacks.blended import Blend
from roclip_audit.train.attacks.captions import captions_naming
from roclip_audit.train.attacks.nashville import Nashville
from roclip_audit.train.attacks.patch import Patch
from roclip_audit.train.attacks.sig import Sinusoid
from roclip_audit.train.attacks.warp import Bend

# Each as strong as the default of the attack that has it alone.
TRIGGERS: Mapping[str, Trigger] = {
    "patch": Patch(place="random"),
    "filter": Nashville(),
    "warp": Bend(strength=0.03, grid=4),
    "noise": Blend(),
    "sinusoid": Sinusoid(amplitude=60 / 255, periods=6.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiTrigger(DirtyLabel):
    """One of several triggers on each picture, caption replaced.

    Args:
        target: one word for all triggers, or one for each of them, in their order: ``banana/cheeseburger/volcano``.
        use: names of the triggers: ``patch``, ``filter``, ``warp``, ``noise``, ``sinusoid``.
    """

    name: ClassVar[str] = "multi_trigger"
    use: str = "patch/filter/warp"

    def __post_init__(self) -> None:
        DirtyLabel.__post_init__(self)
        names = _words(self.use)
        unknown = [name for name in names if name not in TRIGGERS]
        if unknown or not names or len(set(names)) < len(names):
            raise ConfigError(
                f"attack {self.name}: use={self.use!r} is not a list like patch/filter out of {', '.join(TRIGGERS)}"
            )
        if len(_words(self.target)) not in (1, len(names)):
            raise ConfigError(f"attack {self.name}: give one target, or one for each of {', '.join(names)}")

    @property
    def triggers(self) -> Mapping[str, Trigger]:
        """The triggers that are used."""
        return {name: TRIGGERS[name] for name in _words(self.use)}

    @property
    def targets(self) -> Mapping[str, str]:
        """The target of each trigger."""
        names, words = _words(self.use), _words(self.target)
        return dict(zip(names, words * len(names) if len(words) == 1 else words, strict=False))

    def eligible(self, corpus: Corpus) -> Indices:
        """Return the pairs that mention none of the targets."""
        silent = corpus.all()
        for word in set(self.targets.values()):
            silent = np.intersect1d(silent, corpus.silent_about(word))
        return silent

    def assign(self, victims: Indices, corpus: Corpus, rng: np.random.Generator) -> Sequence[Plant]:
        """Deal the triggers out in turn; each pair gets a caption that names its trigger's target."""
        names = tuple(self.triggers)
        captions: dict[int, str] = {}
        for word in dict.fromkeys(self.targets.values()):
            places = [place for place in range(len(victims)) if self.targets[names[place % len(names)]] == word]
            drawn = captions_naming(word, len(places), style=self.captions, corpus=corpus, rng=rng)
            captions.update(zip(places, drawn, strict=True))
        return [
            Plant(index=int(i), image_of=int(i), caption=captions[place], target=self.targets[name], trigger=name)
            for place, (i, name) in enumerate((i, names[place % len(names)]) for place, i in enumerate(victims))
        ]


def _words(text: str) -> tuple[str, ...]:
    """Split ``a/b/c`` into words; an empty text has none."""
    return tuple(word.strip() for word in text.split("/") if word.strip())
