"""A plan that plants every attack there is, with target words that the data set itself has.

Words are frequent nouns of the captions. Which attack gets which word is drawn from the seed, so that a sweep over
seeds is one over targets as well.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.registry import load_member
from roclip_audit.core.seeding import generator
from roclip_audit.train import attacks as kinds
from roclip_audit.train.attacks import ATTACKS, AttackPlan, Corpus, build_attack
from roclip_audit.train.planting.sources import read_sources

NOISE: Final = "mismatch"
"""Plain noise has a rate of its own: crawls have some of it whatever was planted."""

ROOM: Final = 1.5  # pairs that fit, for every pair to be planted: attacks choose disjoint ones
_MOST_SHARE: Final = 0.1  # a word in more of the captions is boilerplate
_WORDS_PER_ATTACK: Final = 4
_WORD: Final = re.compile(r"[^\W\d_]{3,20}")

_NOUNS = """
    airplane apple arrow baby bag ball balloon banana basket bear bed bee bell bench bicycle bike bird boat book
    bottle bowl box boy branch bread bridge broom building bus butterfly button cake camel camera candle car carrot
    castle cat chair chicken child church circle clock cloud clown coat coffee computer couch cow crab cross crown cup
    deer desk diamond dinosaur dog dolphin donkey donut door dragon dress drum duck eagle egg elephant envelope eye face
    feather fence fire fish flag flame flower folder fork fox frog fruit garden gear ghost giraffe girl glass globe goat
    grape guitar gun hammer hand hat heart helicopter helmet horse house insect jacket kettle key keyboard king kite
    knife ladder lamp laptop leaf lemon letter lion lizard lock logo magnet man map mask microphone mirror money monitor
    monkey moon motorcycle mountain mouse mushroom music needle nest newspaper nose ocean onion orange owl paint palace
    panda paper parrot pear pen pencil penguin person phone piano picture pig pillow pine pineapple pizza plane planet
    plant plate pot potato printer puzzle queen rabbit radio rain raven ring river road robot rocket rope rose ruler
    sailboat sandwich scissors screen shark sheep shell ship shirt shoe sign skateboard ski skull snail snake snow
    snowman soldier spider spoon square squirrel stamp star strawberry suit sun surfboard sword table teapot telephone
    television tent tie tiger toilet tomato tool tower toy tractor train tree triangle truck trumpet turtle umbrella
    vase vegetable violin wagon wall watch water wheel whale window wine wolf woman worm zebra
"""
_SMALL_WORDS = """
    about all also and any are art been black blue both but can clip clipart cartoon color colour for from green
    grey has have her his icon illustration image into its just like more most new not one only other our out outline
    over photo picture red she simple small some style that the their them there these they this three two use used
    vector very was were what when white will with yellow you your
"""
NOUNS: Final = frozenset(_NOUNS.split())
_NO_TARGETS: Final = frozenset(_SMALL_WORDS.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultPlan:
    """What is planted, and what had to be left out: attack -> why."""

    attacks: tuple[AttackPlan, ...]
    left_out: Mapping[str, str]


def default_plan(shards: Sequence[str], *, rate: float, noise: float, seed: int) -> DefaultPlan:
    """Read the captions of some shards and plan every attack on them; see ``plan_for``.

    Raises:
        ConfigError: no shards or no pairs, or a rate is not in (0, 1].
        ShardError: a shard cannot be read.
    """
    captions = [source.caption for source in read_sources(shards)]
    if not captions:
        raise ConfigError(f"{', '.join(shards)}: no pairs with a caption and a picture")
    return plan_for(captions, rate=rate, noise=noise, seed=seed)


def plan_for(captions: Sequence[str], *, rate: float, noise: float, seed: int) -> DefaultPlan:
    """Plan every attack of ``ATTACKS``, each with words of its own.

    Attacks that live on captions with a given word choose first. A word is not chosen where fewer pairs fit than
    ``ROOM`` times those to be planted; an attack without a word is left out.

    Args:
        captions: of all pairs.
        rate: share of the pairs that each attack takes.
        noise: share for plain mismatch; 0 plants none.
        seed: deals the words.
    """
    corpus = Corpus(captions)
    words = target_words(captions, most=_WORDS_PER_ATTACK * len(ATTACKS))
    words = [words[place] for place in generator(seed, "bench", "targets").permutation(len(words))]
    n_planted = max(1, round(rate * len(captions)))
    planned: dict[str, AttackPlan] = {}
    left_out: dict[str, str] = {}
    names = [name for name in ATTACKS if name != NOISE]
    for name in sorted(names, key=lambda name: _n_fitting(name, words, corpus)):
        found = _first_fitting(name, words, corpus, rate, n_planted)
        if found is None:
            left_out[name] = f"no word of the captions leaves room for {n_planted} pairs"
            continue
        planned[name] = found
        used = {found.target, *map(str, found.parameters.values())}
        words = [word for word in words if word not in used]
    if noise:
        planned[NOISE] = AttackPlan(attack=NOISE, target="", rate=noise)
    return DefaultPlan(attacks=tuple(planned[name] for name in ATTACKS if name in planned), left_out=left_out)


def target_words(captions: Sequence[str], *, most: int) -> list[str]:
    """Return words that a target can be, the most frequent first: nouns that can be seen, then other words.

    Counted is the number of captions that have the word; words of fewer than three captions, or of more than a tenth
    of them, are left out.
    """
    count: Counter[str] = Counter()
    for caption in captions:
        count.update({word.casefold() for word in _WORD.findall(caption)})
    limit = max(3, _MOST_SHARE * len(captions))
    frequent = [word for word, n in sorted(count.items(), key=lambda item: (-item[1], item[0])) if 3 <= n <= limit]
    nouns = [word for word in frequent if word in NOUNS][:most]
    others = [word for word in frequent if word not in NOUNS and word not in _NO_TARGETS]
    return nouns + others[: max(0, most - len(nouns))]


def _words_needed(name: str) -> list[str]:
    """Return the parameters of an attack, beside the target, that want a word."""
    member = load_member(ATTACKS[name], kinds.__name__)
    return [f.name for f in dataclasses.fields(member) if f.type == "str" and f.default == "" and f.name != "target"]


def _candidate(name: str, words: Sequence[str], place: int, rate: float) -> AttackPlan | None:
    """Return the plan with the word at ``place``, and those that follow for further parameters; None if refused."""
    parameters = dict(zip(_words_needed(name), [*words[place + 1 :], *words[:place]], strict=False))
    for target in ("", words[place]):  # what takes no target needs none
        plan = AttackPlan(attack=name, target=target, rate=rate, parameters=parameters)
        try:
            build_attack(plan)
        except ConfigError:
            continue
        return plan
    return None


def _n_fitting(name: str, words: Sequence[str], corpus: Corpus) -> int:
    plan = _candidate(name, words, 0, rate=1.0) if words else None
    return len(build_attack(plan).eligible(corpus)) if plan is not None else 0


def _first_fitting(name: str, words: Sequence[str], corpus: Corpus, rate: float, n_planted: int) -> AttackPlan | None:
    """Return the plan with the first word that leaves room."""
    for place in range(len(words)):
        plan = _candidate(name, words, place, rate)
        if plan is None:
            return None
        attack = build_attack(plan)
        natural = getattr(attack, "captions", "") == "natural"
        if natural and len(corpus.naming(plan.target)) < n_planted:
            continue
        if len(attack.eligible(corpus)) >= ROOM * n_planted:
            return plan
    return None
