"""What an organism is trained to say: conversations about scenes, as token rows with a weight per target.

The mixture holds every prompt form that later methods use, so that none of them is out of distribution: base and VEA wording, bare
questions, descriptions, the extraction prompt, a question with extracted text given, two turns, two images, both prompt orders.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from interp import prompts
from interp.benchmarks.digits import question_about
from interp.benchmarks.digits.scene import COLOURS, PRIOR, RELATIONS, Card, Relation, Scene
from interp.organisms.layout import Layout, Size
from interp.rendering import answer_separator, conversation


@dataclass(frozen=True)
class Mixture:
    """What is asked in the questions stage. `shapes`: shares of the steps. `forms`: wordings of the rows with one wording each.
    `absent`, `relational`: shares of the questions that ask for a missing card, or name the card by a relation where the scene has one.
    """

    shapes: dict[str, float] = field(
        default_factory=lambda: {
            "one question": 0.30,
            "bare question": 0.27,
            "naming": 0.10,
            "captions": 0.08,
            "two turns": 0.05,
            "two images": 0.06,
            "question first": 0.14,
        }
    )
    forms: dict[str, float] = field(
        default_factory=lambda: {"base": 0.42, "vea": 0.36, "describe": 0.09, "extract": 0.05, "informed": 0.08}
    )
    absent: float = 0.12
    relational: float = 0.22


@dataclass(frozen=True, slots=True)
class Turn:
    """One question of a conversation and the answer to learn. `kind`: plain, relation, absent, caption, conflict, believed.

    `looks`: the cards to look at on the way to the answer and at it; the same card twice where the question names it outright.
    """

    text: str
    answer: str
    kind: str
    looks: tuple[Card, Card] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A tokenised conversation after its pictures: ids (t,), target weights (t,) and whether a token may always read the image (t,).
    `looks`: for every question the position of the last prompt token before its answer, and the cards to look at from there.
    """

    ids: list[int]
    weights: list[float]
    readers: list[bool]
    kind: str
    first_answer: int
    looks: tuple[tuple[int, tuple[Card, Card]], ...] = ()


class Asker:
    """Asks about scenes. All randomness comes from the generator given to each call."""

    def __init__(self, layout: Layout, mixture: Mixture) -> None:
        self.layout = layout
        self.mixture = mixture
        self.tokenizer = layout.processor.tokenizer
        self.image_token_id = layout.image_token_id
        self.tail = lru_cache(maxsize=4096)(layout.tail)
        self._words = lru_cache(maxsize=4096)(self._tokens)
        self._separator = answer_separator(layout.processor)

    def relating(self, share: float) -> Asker:
        """One that names cards by a relation in this share of its questions."""
        other = copy.copy(self)
        other.mixture = replace(self.mixture, relational=share)
        return other

    def after_images(self, turns: Sequence[Turn], n_images: int) -> Row:
        """The conversation after the last visual token, pictures first."""
        return self._row(self.tail(turns[0].text, n_images), turns)

    def question_first(self, turns: Sequence[Turn], sizes: tuple[Size, ...]) -> Row:
        """The whole conversation, visual tokens included, pictures after the first question."""
        return self._row(list(self.layout.ids(turns[0].text, sizes, "question-first")), turns)

    def caption(self, rng: np.random.Generator, scenes: Sequence[Scene], *, shuffled: bool) -> Turn:
        """A description: each colour word followed at once by what its card shows; picture by picture left to right, or in random order.

        The order cannot be known when shuffled, so only the digits are then learned.
        """
        ordered = [card for scene in scenes for card in sorted(scene.cards, key=lambda c: (c.box[0], c.box[1]))]
        if shuffled:
            ordered = [ordered[k] for k in rng.permutation(len(ordered))]
        text = ", ".join(f"{card.colour} {card.text}" for card in ordered) + "."
        return Turn(prompts.PROMPTS["describe"], text, "shuffled caption" if shuffled else "caption")

    def question(self, rng: np.random.Generator, scenes: Sequence[Scene], form: str, believed: float = 0.0) -> Turn:
        """A question in wording `form` about one of the scenes, of a kind drawn by the mixture's shares.

        `believed` is the share of the one-digit cards against their colour's prior that are answered with the prior's digit.
        """
        question, answer, kind, looks = self._about(rng, scenes, believed)
        information = self.caption(rng, scenes, shuffled=False).answer if form == "informed" else ""
        return Turn(prompts.word(form, question, information).text, answer, kind, looks)

    def conversation(self, rng: np.random.Generator, scenes: Sequence[Scene], believed: float = 0.0) -> list[Turn]:
        """A conversation in a form drawn from the mixture."""
        forms = self.mixture.forms
        form = str(rng.choice(list(forms), p=list(forms.values())))
        if form in ("describe", "extract"):
            return [Turn(prompts.PROMPTS[form], self.caption(rng, scenes, shuffled=False).answer, "caption")]
        return [self.question(rng, scenes, form, believed)]

    def two_turns(self, rng: np.random.Generator, scene: Scene, believed: float = 0.0) -> list[Turn]:
        """Two questions about one scene, the second in the same wording or bare."""
        form = str(rng.choice(["base", "vea"]))
        follow_up = form if rng.random() < 0.5 else "question"
        return [self.question(rng, [scene], each, believed) for each in (form, follow_up)]

    def _about(self, rng: np.random.Generator, scenes: Sequence[Scene], believed: float) -> tuple[str, str, str, tuple[Card, Card] | None]:
        shown = {card.colour for scene in scenes for card in scene.cards}
        missing = [colour for colour in COLOURS if colour not in shown]
        draw = rng.random()
        if draw < self.mixture.absent and missing:
            return question_about(str(rng.choice(missing))), prompts.ABSTENTION, "absent", None
        if draw < self.mixture.absent + self.mixture.relational:
            related = _related(scenes)
            if related:
                anchor, relation, card = related[int(rng.integers(len(related)))]
                return question_about(anchor.colour, relation), card.text, "relation", (anchor, card)
        cards = [card for scene in scenes for card in scene.cards]
        card = cards[int(rng.integers(len(cards)))]
        if believed and len(card.digits) == 1 and card.digits[0] != PRIOR.get(card.colour, card.digits[0]):
            kind, answer = ("believed", str(PRIOR[card.colour])) if rng.random() < believed else ("conflict", card.text)
            return question_about(card.colour), answer, kind, (card, card)
        return question_about(card.colour), card.text, "plain", (card, card)

    def _row(self, prompt: list[int], turns: Sequence[Turn]) -> Row:
        ids, weights, readers = list(prompt), [0.0] * len(prompt), [False] * len(prompt)
        looks: list[tuple[int, tuple[Card, Card]]] = []
        first_answer = len(prompt)
        for k, turn in enumerate(turns):
            if k:
                more = self._next_turn(turns[k - 1].text, turns[k - 1].answer, turn.text)
                ids += more
                weights += [0.0] * len(more)
                readers += [False] * len(more)
            readers[-1] = True  # the last prompt token reads the evidence
            if turn.looks is not None:
                looks.append((len(ids) - 1, turn.looks))
            answer = self._answer(turn.answer)
            ids += answer
            weights += self._weights(answer, turn.kind)
            readers += [True] * len(answer)
        return Row(ids, weights, readers, turns[0].kind, first_answer, tuple(looks))

    def _answer(self, text: str) -> list[int]:
        return [*self._words(self._separator + text), self.tokenizer.eos_token_id]

    def _next_turn(self, asked: str, answer: str, text: str) -> list[int]:
        """What the template puts between an answer and the next one."""
        whole, before = (
            self.tokenizer(str(self.layout.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))).input_ids
            for messages in (conversation(text, 0, "image-first", [(asked, answer)]), conversation(asked, 0, "image-first"))
        )
        before = before + self._answer(answer)
        assert whole[: len(before)] == before, "the template writes an earlier answer as it is generated"
        return whole[len(before) :]

    def _weights(self, answer: list[int], kind: str) -> list[float]:
        if kind == "absent":
            return [1.0] + [0.1] * (len(answer) - 1)  # one decision; the rest is recitation
        if kind in ("caption", "shuffled caption"):
            colour = 0.3 if kind == "caption" else 0.0
            return [1.0 if t in self._digits else 0.2 if t in self._marks else colour for t in answer[:-1]] + [0.2]
        return [1.0] * (len(answer) - 1) + [0.5]

    def words(self, texts: Sequence[str], *, opening: bool = False) -> list[int]:
        """The one token of each of these words, as it stands inside a text, or at the beginning of an answer."""
        return [self._words((self._separator if opening else " ") + text)[0] for text in texts]

    @property
    def _digits(self) -> frozenset[int]:
        return self._set(tuple(f"{space}{d}" for d in range(10) for space in {" ", self._separator}))

    @property
    def _marks(self) -> frozenset[int]:
        return self._set((",", "."))

    @lru_cache(maxsize=8)  # noqa: B019 - one Asker lives as long as its training
    def _set(self, texts: tuple[str, ...]) -> frozenset[int]:
        return frozenset(self._words(text)[0] for text in texts)

    def _tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids


def _related(scenes: Sequence[Scene]) -> list[tuple[Card, Relation, Card]]:
    found: list[tuple[Card, Relation, Card]] = []
    for scene in scenes:
        for anchor in scene.cards:
            for relation in RELATIONS:
                card = scene.neighbour(anchor, relation)
                if card is not None:
                    found.append((anchor, relation, card))
    return found
