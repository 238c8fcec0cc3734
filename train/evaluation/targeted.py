"""Success of targeted poisoning: is the poisoned picture itself, un-augmented, classified as its target word?

Source: RoCLIP (arXiv 2303.06854) and its code: zero-shot with the template ensemble over all classes, success = top-1
is the adversarial class, rate = successes / distinct target pictures. Carlini and Terzis, arXiv 2106.09667.
"""

from __future__ import annotations

from collections.abc import Sequence

from roclip_audit.train.evaluation.embedder import Features
from roclip_audit.train.evaluation.proportion import Proportion
from roclip_audit.train.evaluation.zero_shot import Classifier, classify


def targeted_success(
    features_PD: Features, words: Sequence[str], classifier: Classifier, *, top: int = 1
) -> Proportion:
    """Count the target pictures with their word among the ``top`` nearest classes.

    Args:
        features_PD: unit vectors of P distinct target pictures.
        words: P target words, each the name of a class.
        classifier: over all classes.
        top: 1 to C.

    Raises:
        ValueError: a word is not the name of a class.
    """
    nearest_PT = classify(features_PD, classifier.weights_CD, top=top)
    k = 0
    for word, nearest in zip(words, nearest_PT, strict=True):
        meant = classifier.named(word)
        if not len(meant):
            raise ValueError(f"target word {word!r} is not among the classes")
        k += bool(set(meant.tolist()) & set(nearest.tolist()))
    return Proportion.of(k, len(words))
