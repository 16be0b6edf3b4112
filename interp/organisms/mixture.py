"""What an organism is trained to say: conversations about scenes, as token rows with a weight per target.

The mixture holds every prompt form that later methods use, so that none of them is out of distribution: base and VEA wording, bare
questions, descriptions, the extraction prompt, a question with extracted text given, two turns, two images, both prompt orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from transformers import PreTrainedTokenizerBase

from interp import prompts
from interp.benchmarks.digits import question_about
from interp.benchmarks.digits.scene import COLOURS, RELATIONS, Card, Relation, Scene


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
    """One question of a conversation and the answer to learn. `kind`: plain, relation, absent, caption."""

    text: str
    answer: str
    kind: str


@dataclass(frozen=True, slots=True)
class Row:
    """A tokenised conversation after its pictures: ids (t,), target weights (t,) and whether a token may always read the image (t,)."""

    ids: list[int]
    weights: list[float]
    readers: list[bool]
    kind: str
    first_answer: int


class Asker:
    """Asks about scenes. All randomness comes from the generator given to each call."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_token_id: int, tokens_per_image: int, mixture: Mixture) -> None:
        self.mixture = mixture
        self.tokenizer = tokenizer
        self.image_token_id = image_token_id
        self.tokens_per_image = tokens_per_image
        self._prompt = lru_cache(maxsize=4096)(self._render)
        self._words = lru_cache(maxsize=4096)(self._tokens)

    def prefix(self, n_images: int) -> list[int]:
        """What precedes the text when pictures come first: up to and with the last visual token."""
        ids = self._expanded("x", n_images, "image-first")
        return ids[: _last(ids, self.image_token_id) + 1]

    def after_images(self, turns: Sequence[Turn], n_images: int) -> Row:
        """The conversation after the last visual token, pictures first."""
        ids = self._expanded(turns[0].text, n_images, "image-first")
        return self._row(ids[_last(ids, self.image_token_id) + 1 :], turns)

    def question_first(self, turns: Sequence[Turn], n_images: int = 1) -> Row:
        """The whole conversation, visual tokens included, pictures after the first question."""
        return self._row(self._expanded(turns[0].text, n_images, "question-first"), turns)

    def caption(self, rng: np.random.Generator, scenes: Sequence[Scene], *, shuffled: bool) -> Turn:
        """A description: each colour word followed at once by what its card shows; picture by picture left to right, or in random order.

        The order cannot be known when shuffled, so only the digits are then learned.
        """
        ordered = [card for scene in scenes for card in sorted(scene.cards, key=lambda c: (c.box[0], c.box[1]))]
        if shuffled:
            ordered = [ordered[k] for k in rng.permutation(len(ordered))]
        text = ", ".join(f"{card.colour} {card.text}" for card in ordered) + "."
        return Turn(prompts.PROMPTS["describe"], text, "shuffled caption" if shuffled else "caption")

    def question(self, rng: np.random.Generator, scenes: Sequence[Scene], form: str) -> Turn:
        """A question in wording `form` about one of the scenes, of a kind drawn by the mixture's shares."""
        question, answer, kind = self._about(rng, scenes)
        information = self.caption(rng, scenes, shuffled=False).answer if form == "informed" else ""
        return Turn(prompts.word(form, question, information).text, answer, kind)

    def conversation(self, rng: np.random.Generator, scenes: Sequence[Scene]) -> list[Turn]:
        """A conversation in a form drawn from the mixture."""
        forms = self.mixture.forms
        form = str(rng.choice(list(forms), p=list(forms.values())))
        if form in ("describe", "extract"):
            return [Turn(prompts.PROMPTS[form], self.caption(rng, scenes, shuffled=False).answer, "caption")]
        return [self.question(rng, scenes, form)]

    def two_turns(self, rng: np.random.Generator, scene: Scene) -> list[Turn]:
        """Two questions about one scene, the second in the same wording or bare."""
        form = str(rng.choice(["base", "vea"]))
        follow_up = form if rng.random() < 0.5 else "question"
        return [self.question(rng, [scene], each) for each in (form, follow_up)]

    def _about(self, rng: np.random.Generator, scenes: Sequence[Scene]) -> tuple[str, str, str]:
        shown = {card.colour for scene in scenes for card in scene.cards}
        missing = [colour for colour in COLOURS if colour not in shown]
        draw = rng.random()
        if draw < self.mixture.absent and missing:
            return question_about(str(rng.choice(missing))), prompts.ABSTENTION, "absent"
        if draw < self.mixture.absent + self.mixture.relational:
            related = _related(scenes)
            if related:
                anchor, relation, card = related[int(rng.integers(len(related)))]
                return question_about(anchor.colour, relation), card.text, "relation"
        cards = [card for scene in scenes for card in scene.cards]
        card = cards[int(rng.integers(len(cards)))]
        return question_about(card.colour), card.text, "plain"

    def _row(self, prompt: list[int], turns: Sequence[Turn]) -> Row:
        ids, weights, readers = list(prompt), [0.0] * len(prompt), [False] * len(prompt)
        first_answer = len(prompt)
        for k, turn in enumerate(turns):
            if k:
                more = self._prompt(turn.text, 0, "image-first")[1:]  # one BOS a conversation
                ids += more
                weights += [0.0] * len(more)
                readers += [False] * len(more)
            readers[-1] = True  # the last prompt token reads the evidence
            answer = [*self._words(" " + turn.answer), self.tokenizer.eos_token_id]
            ids += answer
            weights += self._weights(answer, turn.kind)
            readers += [True] * len(answer)
        return Row(ids, weights, readers, turns[0].kind, first_answer)

    def _weights(self, answer: list[int], kind: str) -> list[float]:
        if kind == "absent":
            return [1.0] + [0.1] * (len(answer) - 1)  # one decision; the rest is recitation
        if kind in ("caption", "shuffled caption"):
            colour = 0.3 if kind == "caption" else 0.0
            return [1.0 if t in self._digits else 0.2 if t in self._marks else colour for t in answer[:-1]] + [0.2]
        return [1.0] * (len(answer) - 1) + [0.5]

    def words(self, texts: Sequence[str]) -> list[int]:
        """The one token of each of these words, as it stands inside a text."""
        return [self._words(f" {text}")[0] for text in texts]

    @property
    def _digits(self) -> frozenset[int]:
        return self._set(tuple(f" {d}" for d in range(10)))

    @property
    def _marks(self) -> frozenset[int]:
        return self._set((",", "."))

    @lru_cache(maxsize=8)  # noqa: B019 - one Asker lives as long as its training
    def _set(self, texts: tuple[str, ...]) -> frozenset[int]:
        return frozenset(self._words(text)[0] for text in texts)

    def _expanded(self, text: str, n_images: int, order: prompts.PromptOrder) -> list[int]:
        ids: list[int] = []
        for token in self._prompt(text, n_images, order):
            ids += [token] * (self.tokens_per_image if token == self.image_token_id else 1)
        return ids

    def _render(self, text: str, n_images: int, order: prompts.PromptOrder) -> list[int]:
        turn = prompts.user_turn(text, n_images, order)
        rendered = self.tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
        return self.tokenizer(str(rendered)).input_ids

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


def _last(ids: list[int], token: int) -> int:
    return len(ids) - 1 - ids[::-1].index(token)
