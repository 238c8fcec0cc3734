"""Measure one model on everything that was read.

Each picture set is embedded once, and the test pictures once more for each trigger. The classifier has the target words
that are no classes of the data behind those that are: zero-shot accuracy is measured without them, attacks with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from roclip_audit.train.evaluation.attack_truth import TARGETED
from roclip_audit.train.evaluation.backdoor import Stamping, backdoor_success, called_target
from roclip_audit.train.evaluation.checkpoints import Checkpoint
from roclip_audit.train.evaluation.embedder import Embedded, Embedder
from roclip_audit.train.evaluation.inputs import Inputs
from roclip_audit.train.evaluation.labelled import Labelled
from roclip_audit.train.evaluation.pictures import StoredPictures
from roclip_audit.train.evaluation.probe import ProbeResult, linear_probe
from roclip_audit.train.evaluation.proportion import Proportion
from roclip_audit.train.evaluation.report import AttackResult, InputFacts, ModelResult
from roclip_audit.train.evaluation.retrieval import RetrievalResult, retrieval
from roclip_audit.train.evaluation.targeted import targeted_success
from roclip_audit.train.evaluation.zero_shot import TOP, Classifier, ZeroShot, text_classifier, zero_shot
from roclip_audit.train.planting.triggers import PlantedTrigger


def measure_model(
    embedder: Embedder, inputs: Inputs, *, checkpoint: Checkpoint, seed: int = 0
) -> tuple[ModelResult, tuple[InputFacts, ...]]:
    """Measure whatever the inputs allow, and say what of them could be read.

    Args:
        embedder: the model.
        inputs: of `inputs.read_inputs`.
        checkpoint: what the model is called.
        seed: of the probe's split and of stamps.
    """
    work = _Measurement(embedder=embedder, inputs=inputs, name=checkpoint.name, seed=seed)
    work.embed_test_pictures()
    work.build_classifier()
    result = ModelResult(
        name=checkpoint.name,
        spec=checkpoint.spec,
        is_undefended=checkpoint.is_undefended,
        zero_shot=work.zero_shot(),
        probe=work.probe(),
        retrieval=work.retrieval(),
        attacks=(*work.targeted(), *work.backdoors()),
    )
    return result, tuple(work.facts)


@dataclass(slots=True, kw_only=True)
class _Measurement:
    """One model at work; ``facts`` grows with every set of pictures."""

    embedder: Embedder
    inputs: Inputs
    name: str
    seed: int
    facts: list[InputFacts] = field(default_factory=list)
    tested: Embedded | None = None
    classifier: Classifier | None = None

    def embed_test_pictures(self) -> None:
        """Embed the test pictures, which several measures share."""
        if self.inputs.data is not None:
            self.tested = self._embed("--data", self.inputs.data.pictures, self.inputs.data.n_unlabelled)

    def build_classifier(self) -> None:
        """Embed the prompts of all classes and target words, if anything is to be classified."""
        if self.inputs.data is not None or self.inputs.truth is not None:
            names = (*self.inputs.class_names, *self.inputs.added_words)
            self.classifier = text_classifier(self.embedder, names, templates=self.inputs.templates)

    def zero_shot(self) -> ZeroShot | None:
        """Measure accuracy over the classes of the data."""
        data, tested, classifier = self.inputs.data, self.tested, self.classifier
        if data is None or tested is None or classifier is None:
            return None
        own = classifier.first(len(self.inputs.class_names))
        n_templates = len(self.inputs.templates)
        return zero_shot(tested.features_ND, data.labels_N[tested.rows_N], own, n_templates=n_templates)

    def probe(self) -> ProbeResult | None:
        """Train the linear probe and test it on the test pictures."""
        data, train, labels_N, tested = self.inputs.data, self.inputs.probe_train, self.inputs.probe_labels, self.tested
        if data is None or train is None or labels_N is None or tested is None:
            return None
        trained = self._embed("--probe-train", train.pictures, train.n_unlabelled)
        self.embedder.reporter.note(f"{self.name}: fitting the linear probe")
        return linear_probe(
            trained.features_ND,
            labels_N[trained.rows_N],
            tested.features_ND,
            data.labels_N[tested.rows_N],
            self.seed,
            device=self.embedder.device,
        )

    def retrieval(self) -> RetrievalResult | None:
        """Measure retrieval among the pairs whose picture can be read."""
        pairs = self.inputs.pairs
        if pairs is None:
            return None
        seen = self._embed("--retrieval", pairs.pictures, pairs.n_left_out)
        captions = [pairs.captions[row] for row in seen.rows_N.tolist()]
        position = {caption: place for place, caption in enumerate(dict.fromkeys(captions))}
        distinct = self.embedder.texts(list(position), stage=f"{self.name}: captions")
        text_ND = distinct[[position[caption] for caption in captions]]
        return retrieval(seen.features_ND, text_ND, captions)

    def targeted(self) -> Iterator[AttackResult]:
        """Yield the success of targeted poisoning: of all words, if there are several, and of each word."""
        truth, classifier = self.inputs.truth, self.classifier
        if truth is None or classifier is None or not truth.words:
            return
        seen = self._embed("--attack", truth.pictures, 0)
        words = [truth.words[row] for row in seen.rows_N.tolist()]
        distinct = list(dict.fromkeys(truth.words))
        if len(distinct) > 1:
            yield self._targeted(seen, words, distinct, classifier)
        for word in distinct:
            yield self._targeted(seen, words, [word], classifier)

    def _targeted(
        self, seen: Embedded, words: Sequence[str], counted: Sequence[str], classifier: Classifier
    ) -> AttackResult:
        """Count the pictures of some of the words."""
        rows = [row for row, word in enumerate(words) if word in counted]
        features_PD, of_rows = seen.features_ND[rows], [words[row] for row in rows]
        return AttackResult(
            attack=TARGETED,
            target=counted[0] if len(counted) == 1 else "",
            n_pooled=len(counted),
            success=targeted_success(features_PD, of_rows, classifier),
            top5=targeted_success(features_PD, of_rows, classifier, top=TOP)
            if len(classifier.class_names) > TOP
            else None,
        )

    def backdoors(self) -> Iterator[AttackResult]:
        """Yield the success of each trigger, after that of its attack's triggers together if there are several."""
        truth, data, tested, classifier = self.inputs.truth, self.inputs.data, self.tested, self.classifier
        if truth is None or data is None or tested is None or classifier is None:
            return
        results = []
        for name, trigger in truth.triggers.items():
            base = called_target(tested.features_ND, data.labels_N[tested.rows_N], classifier, trigger.target)
            success = self._stamped(name, trigger, data, classifier)
            results.append(
                AttackResult(
                    attack=trigger.plan.attack, target=trigger.target, trigger=name, success=success, base=base
                )
            )
        results.sort(key=lambda result: result.attack)
        for _, group in groupby(results, key=lambda result: result.attack):
            yield from _with_pooled(list(group))

    def _stamped(self, name: str, trigger: PlantedTrigger, data: Labelled, classifier: Classifier) -> Proportion:
        """Return the success of one trigger; the prompts begin with its word, if it has one."""
        if trigger.caption_word:
            classifier = text_classifier(
                self.embedder, classifier.class_names, templates=self.inputs.templates, prefix=trigger.caption_word
            )
        return backdoor_success(
            self.embedder,
            data.pictures,
            data.labels_N,
            stamping=Stamping(name=name, trigger=trigger, seed=self.seed),
            classifier=classifier,
            stage=f"{self.name}: {name}",
        )

    def _embed(self, option: str, pictures: StoredPictures, n_left_out: int) -> Embedded:
        found = self.embedder.pictures(pictures, stage=f"{self.name}: {option.removeprefix('--')}")
        self.facts.append(
            InputFacts(option=option, n_pictures=len(pictures), n_left_out=n_left_out, unread=found.unread)
        )
        return found


def _with_pooled(same: Sequence[AttackResult]) -> list[AttackResult]:
    """Put the triggers of one attack together before them, if there are several."""
    if len(same) == 1:
        return list(same)
    pooled = AttackResult(
        attack=same[0].attack,
        target="",
        n_pooled=len(same),
        success=Proportion.pooled(one.success for one in same),
        base=Proportion.pooled(one.base for one in same if one.base is not None),
    )
    return [pooled, *same]
