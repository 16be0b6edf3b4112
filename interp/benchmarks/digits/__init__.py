"""`digits`: what is written on the red card? Real handwriting on coloured cards on real photographs, with exact boxes.

The test, validation and profile splits are built from blocks of 50 samples: 18 in paired prior arms (6 scenes, each as `congruent`,
`neutral` and `conflict`), 10 asked by relation, 6 about an absent card, 16 plain. 70 % of the answerable samples have a one-digit answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import overload

import numpy as np

from interp.benchmarks.digits.assets import SPLITS, Material, material
from interp.benchmarks.digits.scene import COLOURS, NEUTRAL, PRIOR, RELATIONS, Card, Relation, Scene, SceneOptions, draw_scene
from interp.benchmarks.sample import Region, Role, Sample
from interp.errors import BenchmarkError
from interp.prompts import ABSTENTION

SIZES = {"train": 20_000, "validation": 500, "profile": 200, "test": 500}
TRAIN_PRIOR = 0.95  # chance that a one-digit training card of a PRIOR colour shows that colour's digit

ARMS = ("congruent", "neutral", "conflict")
_BLOCK = 50
_ID = re.compile(r"digits/(?P<split>\w+)/(?P<seed>\d+)-(?P<index>\d+)")


@dataclass(frozen=True, slots=True)
class _Slot:
    """What one place of a block of 50 holds. `back` is how far before it its scene is drawn: an arm's followers share the first's."""

    kind: str
    digits: int
    arm: str = ""
    back: int = 0


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One sample as it was drawn: its scene, which of the cards is asked about (None: none), and how. `suffix` marks its id."""

    split: str
    seed: int
    index: int
    scene_index: int
    scene: Scene
    slot: _Slot
    asked: Card | None
    relation: Relation | None
    colour: str
    suffix: str = ""


def question_about(colour: str, relation: Relation | None = None) -> str:
    """The benchmark's question about a card named by its colour, or by its relation to the card of that colour."""
    return f"What is written on the {colour} card?" if relation is None else f"What is written on the card {relation} the {colour} card?"


class Digits(Sequence[Sample]):
    """A split of `digits`; samples are drawn when indexed and depend on (split, seed, index) alone."""

    name = "digits"

    def __init__(self, split: str, indices: range, seed: int = 0) -> None:
        self.split = split
        self.seed = seed
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Digits: ...
    def __getitem__(self, index: int | slice) -> Sample | Digits:
        if isinstance(index, slice):
            return Digits(self.split, self._indices[index], self.seed)
        return _sample(self.split, self.seed, self._indices[index])

    def __repr__(self) -> str:
        return f"Digits(split={self.split!r}, n={len(self)}, seed={self.seed})"


def load(split: str = "test", limit: int | None = None, seed: int = 0) -> Digits:
    """The split's samples (default sizes in `SIZES`; a larger `limit` draws more, up to a million).

    Raises
    ------
    BenchmarkError
        Unknown split, or a limit outside 1 to 1,000,000.
    """
    if split not in SPLITS:
        raise BenchmarkError(f"Benchmark 'digits' has no split {split!r}; use one of {', '.join(SPLITS)}.")
    if limit is not None and not 1 <= limit <= 1_000_000:
        raise BenchmarkError(f"Limit {limit} is not a number of samples; give 1 to 1,000,000.")
    return Digits(split, range(SIZES[split] if limit is None else limit), seed)


def another_digit(sample: Sample, seed: int = 0) -> Sample:
    """The same scene and question with one digit of the asked card exchanged: the two pictures differ in that one place.

    Parameters
    ----------
    sample
        Of this benchmark, with an answer.
    seed
        Chooses, together with the sample, which of the card's digits is exchanged, for which other one, and in whose handwriting.

    Returns
    -------
    Sample
        Of the same `image_id`, since it is the same scene.

    Raises
    ------
    BenchmarkError
        The sample is not of this benchmark, or asks about a card that is not there.
    """
    known = _ID.fullmatch(sample.id)
    if known is None or known["split"] not in SPLITS:
        raise BenchmarkError(f"Sample {sample.id!r} is not of benchmark 'digits', so its scene is not known; use samples of load().")
    drawn = _drawn(known["split"], int(known["seed"]), int(known["index"]))
    if drawn.asked is None:
        raise BenchmarkError(f"Sample {sample.id!r} asks about a card that is not there, so no digit can be exchanged; leave it out.")
    pool, old = material(drawn.split), drawn.asked
    rng = np.random.default_rng([SPLITS.index(drawn.split), drawn.seed, drawn.index, seed, 1])
    place = int(rng.integers(len(old.digits)))
    digit = (old.digits[place] + int(rng.integers(1, 10))) % 10
    glyph = int(rng.choice(pool.of_digit(digit)))
    new = replace(old, digits=_exchanged(old.digits, place, digit), glyphs=_exchanged(old.glyphs, place, glyph))
    scene = replace(drawn.scene, cards=tuple(new if card is old else card for card in drawn.scene.cards))
    # with another digit, a scene of a prior arm is not one any more
    return _as_sample(replace(drawn, scene=scene, asked=new, slot=replace(drawn.slot, arm=""), suffix=f"-other-{seed}"))


def _exchanged(values: tuple[int, ...], place: int, value: int) -> tuple[int, ...]:
    return (*values[:place], value, *values[place + 1 :])


def _sample(split: str, seed: int, index: int) -> Sample:
    return _as_sample(_drawn(split, seed, index))


def _drawn(split: str, seed: int, index: int) -> _Drawn:
    slots = _train_block() if split == "train" else _evaluation_block()
    slot = slots[index % _BLOCK]
    scene_index = index - slot.back
    rng = np.random.default_rng([SPLITS.index(split), seed, scene_index])
    pool = material(split)
    if slot.arm:
        scene, asked, relation, colour = _arm_scene(rng, pool, slot.arm)
    elif slot.kind == "relation":
        relation = RELATIONS[int(rng.integers(len(RELATIONS)))]
        colours = None if split == "train" else _neutral(rng)
        scene = draw_scene(rng, pool, _options(split, (3, 5)), asked_count=slot.digits, asked_colour=colours, relation=relation)
        asked, colour = scene.cards[0], scene.cards[1].colour
    elif slot.kind == "absent":
        relation, asked = None, None
        scene = draw_scene(rng, pool, _options(split))
        colour = str(rng.choice([c for c in COLOURS if scene.card(c) is None]))
    else:
        relation = None
        colours = None if split == "train" else _neutral(rng)
        scene = draw_scene(rng, pool, _options(split), asked_count=slot.digits, asked_colour=colours)
        asked, colour = scene.cards[0], scene.cards[0].colour
    return _Drawn(split, seed, index, scene_index, scene, slot, asked, relation, colour)


def _options(split: str, n_cards: tuple[int, int] = (2, 5)) -> SceneOptions:
    return SceneOptions(n_cards=n_cards, prior=TRAIN_PRIOR if split == "train" else 0.0)


def _neutral(rng: np.random.Generator) -> str:
    return str(rng.choice(NEUTRAL))


def _arm_scene(rng: np.random.Generator, pool: Material, arm: str) -> tuple[Scene, Card, None, str]:
    digit_of = dict(PRIOR)
    congruent = str(rng.choice(list(digit_of)))
    digit = digit_of.pop(congruent)
    colours = {"congruent": congruent, "neutral": _neutral(rng), "conflict": str(rng.choice(list(digit_of)))}
    others = tuple(c for c in COLOURS if c not in colours.values())
    scene = draw_scene(rng, pool, SceneOptions(colours=others), asked_digits=(digit,), asked_colour=congruent)
    asked = replace(scene.cards[0], colour=colours[arm])
    return replace(scene, cards=(asked, *scene.cards[1:])), asked, None, colours[arm]


def _as_sample(drawn: _Drawn) -> Sample:
    split, seed, scene, slot = drawn.split, drawn.seed, drawn.scene, drawn.slot
    asked, relation, colour = drawn.asked, drawn.relation, drawn.colour
    anchor = scene.card(colour) if relation else None
    regions = [Region(card.box, _role(card, asked, anchor), card.text) for card in scene.cards]
    if asked is not None and len(asked.digits) > 1:
        regions += [Region(box, "evidence", str(digit)) for box, digit in zip(asked.digit_boxes, asked.digits, strict=True)]
    x0, y0, x1, y1 = (asked or scene.cards[0]).box
    return Sample(
        id=f"digits/{split}/{seed}-{drawn.index:06d}{drawn.suffix}",
        images=scene.render(material(split)),
        question=question_about(colour, relation),
        references=asked.text if asked is not None else ABSTENTION,
        regions=regions,
        # The scene, not the picture: the three arms of one scene are one unit when images are resampled.
        image_id=f"digits/{split}/{seed}-scene-{drawn.scene_index:06d}",
        dataset="digits",
        split=split,
        knobs={
            "kind": slot.kind,
            "arm": slot.arm,
            "absent": asked is None,
            "relation": relation or "",
            "colour": asked.colour if asked is not None else colour,
            "prior_digit": PRIOR.get(asked.colour if asked is not None else colour, -1),
            "n_cards": len(scene.cards),
            "colours": " ".join(card.colour for card in scene.cards),  # in the order of the regions
            "n_digits": len(asked.digits) if asked is not None else 0,
            "card_size": min(x1 - x0, y1 - y0),
            "contrast": round(scene.contrast, 4),
            "noise": round(scene.noise, 4),
        },
    )


def _role(card: Card, asked: Card | None, anchor: Card | None) -> Role:
    return "evidence" if card is asked else "anchor" if card is anchor else "distractor"


@cache
def _evaluation_block() -> tuple[_Slot, ...]:
    singles = [_Slot("relation", n) for n in (1,) * 6 + (2,) * 2 + (3,) * 2]
    singles += [_Slot("plain", n) for n in (1,) * 7 + (2,) * 5 + (3,) * 4] + [_Slot("absent", 0)] * 6
    triple = [_Slot("arm", 1, arm, back) for back, arm in enumerate(ARMS)]
    units = [[slot] for slot in singles] + [triple] * 6
    order = np.random.default_rng(50).permutation(len(units))
    return tuple(slot for k in order for slot in units[k])


@cache
def _train_block() -> tuple[_Slot, ...]:
    slots = [_Slot("relation", n) for n in (1,) * 7 + (2,) * 2 + (3,)]
    slots += [_Slot("plain", n) for n in (1,) * 24 + (2,) * 6 + (3,) * 4] + [_Slot("absent", 0)] * 6
    return tuple(slots[k] for k in np.random.default_rng(51).permutation(_BLOCK))
