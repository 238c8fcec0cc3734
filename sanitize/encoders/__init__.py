"""Encoders: from images and captions to feature vectors, by models that never saw the suspect data.

One file a member. A specification names one: ``embedded``, ``open_clip:ARCH/TAG``, ``ARCH/TAG``, ``hf-hub:ORG/NAME``,
``local-dir:PATH``, ``ARCH@FILE`` or a checkpoint file beside its ``open_clip_config.json``; ``embedded+`` before any of
the latter asks both. Every member satisfies ``Encoder`` and passes the conformance suite in tests/sanitize/encoders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, Self, cast

from roclip_audit.core.environment import cpu_features, multiplies_bf16, read_text
from roclip_audit.core.errors import ConfigError
from roclip_audit.core.registry import load_member
from roclip_audit.sanitize.views import VIEWS

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

Precision = Literal["auto", "fp32", "bf16"]  # what may be asked for; a fingerprint holds the one that was used


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """What may be chosen about an encoder; everything here that changes the output is part of its fingerprint."""

    views: tuple[str, ...] = ()
    """Names out of ``sanitize.views.VIEWS``, ``whole`` first; empty means the encoder's own default."""
    precision: Precision = "auto"
    """``auto``: bf16 where the processor multiplies it natively, else fp32; features agree to a cosine of 0.999."""

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ConfigError(f"precision {self.precision!r}: must be auto, fp32 or bf16")
        if unknown := [view for view in self.views if view not in VIEWS]:
            raise ConfigError(f"unknown views {', '.join(unknown)}: choose from {', '.join(VIEWS)}")
        if self.views and (self.views[0] != "whole" or len(set(self.views)) != len(self.views)):
            raise ConfigError(f"views {', '.join(self.views)}: 'whole' must come first and none may repeat")

    def resolved_precision(self) -> Literal["fp32", "bf16"]:
        """Return the precision that this processor will use."""
        if self.precision == "auto":
            return "bf16" if multiplies_bf16(cpu_features(read_text("/proc/cpuinfo"))) else "fp32"
        return self.precision


class Encoder(Protocol):
    """Turns images and captions into features. All methods may be called from several threads at once.

    The output for one item does not depend on its batch by more than rounding, and not at all on the number of threads.
    """

    name: str
    """The specification it was built from."""
    fingerprint: str
    """Hash of the weights and of everything else that changes the output."""
    views: tuple[str, ...]
    """Names of the views, ``whole`` first; axis 1 of the image features."""
    joint: bool
    """True if images and captions share one space; then the features have unit length."""
    image_dim: int
    text_dim: int
    shrink_px: int | None
    """Longer side to which it first shrinks images, so that one shrunk before gives the same; None if it does not."""

    def prepare_image(self, image: Image.Image, seed: int) -> np.ndarray:
        """Turn one RGB image into the array of all its views, [V, ...], ready to be stacked.

        ``seed`` draws what views leave to chance; the whole view leaves nothing.
        """
        ...

    def embed_images(self, batch: np.ndarray) -> np.ndarray:
        """Embed stacked ``prepare_image`` results, [B, V, ...], as float32 [B, V, image_dim]."""
        ...

    def embed_texts(self, captions: Sequence[str]) -> np.ndarray:
        """Embed captions as float32 [B, text_dim]; fastest when they are of similar length."""
        ...


class EncoderFamily(Protocol):
    """A class of encoders; ``rest`` is what follows the family's name in a specification."""

    default_views: ClassVar[tuple[str, ...]]

    @classmethod
    def build(cls, rest: str, config: EncoderConfig) -> Self:
        """Load the weights and return the encoder."""
        ...


ENCODERS: Mapping[str, str] = {
    "embedded": "roclip_audit.sanitize.encoders.embedded:EmbeddedEncoder",
    "open_clip": "roclip_audit.sanitize.encoders.openclip:OpenClipEncoder",
}
"""Name -> "module:Class". Modules are imported when asked for: they load torch."""


def parse_spec(spec: str) -> tuple[str, str]:
    """Split a specification into the family's name and the rest, without loading anything.

    Raises:
        ConfigError: the specification fits no family.
    """
    name, _, rest = spec.partition(":")
    if name in ENCODERS:
        return name, rest
    if spec.startswith(("hf-hub:", "local-dir:")) or "/" in spec or "@" in spec or Path(spec).is_file():
        return "open_clip", spec
    raise ConfigError(
        f"unknown encoder {spec!r}: use embedded, ARCH/TAG, hf-hub:ORG/NAME, local-dir:PATH, ARCH@FILE or a checkpoint"
    )


def build_encoders(spec: str) -> tuple[Encoder, Encoder | None]:
    """Build the encoder that a scan works on, and the joint one that ``embedded+SPEC`` asks beside it.

    Raises:
        ConfigError: the specification fits no family, or what stands behind ``embedded+`` is no joint encoder.
        EncoderError: weights are missing, damaged or not the pinned ones.
    """
    first, plus, rest = spec.partition("+")
    if first != "embedded" or not plus:
        return build_encoder(spec), None
    beside = build_encoder(rest)
    if not beside.joint:
        raise ConfigError(f"encoder {spec!r}: what is asked beside embedded must be an open_clip model")
    return build_encoder("embedded"), beside


def build_encoder(spec: str, config: EncoderConfig | None = None) -> Encoder:
    """Build the encoder that a specification names.

    Raises:
        ConfigError: the specification fits no family.
        EncoderError: weights are missing, damaged or not the pinned ones.
    """
    name, rest = parse_spec(spec)
    family = cast("type[EncoderFamily]", load_member(ENCODERS[name]))
    return cast("Encoder", family.build(rest, config or EncoderConfig()))
