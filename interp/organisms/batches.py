"""Training batches: pictures and token rows for one step, a function of (recipe, stage, step) alone, so that a run can resume exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from interp.benchmarks.digits.assets import material
from interp.benchmarks.digits.scene import COLOURS, PADDING, SINGLES, Card, Scene, SceneOptions, draw_count, draw_scene, draw_size
from interp.organisms.layout import Layout, Size
from interp.organisms.mixture import Asker, Row, Turn

STAGES = ("vision", "captions", "questions", "settling", "shaping")

HARDER = replace(SceneOptions(), contrast=(0.5, 1.0), noise=(0.0, 0.06), inside_centre=True)  # than the benchmark: to learn to read from
_TOUCHED = 0.02  # of a visual token's region: less of a card cannot be told from its surroundings


@dataclass(frozen=True, slots=True)
class Looks:
    """Where rows should look: `row` and `position` (look,) of the query; `targets` (3, look, visual token), the tokens of the card the
    question names, of the card asked about, and of the digit that is said next.
    """

    row: torch.Tensor
    position: torch.Tensor
    targets: torch.Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's input. Rows are right-padded with id 0.

    pictures: the model's inputs of the pictures; prefix (scene, p) ids shared by a scene's rows, or None when rows hold their own visual
    tokens; ids, weights, readers (row, t); kinds and first_answer (row,); dense (image, token, 3): colour, digit and place labels.
    """

    pictures: dict[str, torch.Tensor]
    prefix: torch.Tensor | None = None
    ids: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    readers: torch.Tensor | None = None
    kinds: tuple[str, ...] = ()
    first_answer: torch.Tensor | None = None
    dense: torch.Tensor | None = None
    looks: Looks | None = None


@dataclass(frozen=True, slots=True)
class Draws:
    """Makes batches. `prior` is how often a one-digit card of a prior colour shows its digit where questions are asked, `settled` the same
    in the settling stage. The vision stage and captions see every digit equally often on every colour, so that the tower learns to read
    before there is a prior to follow. `believed` (see `Asker.question`) and `relational`, which takes the place of the mixture's, are used
    by the shaping stage only; `believed_from`, if any: from which of its steps on `believed` is another, what with pictures first, and
    what with the question first. `labelled`: the least share of a visual token's region that a card covers for the token to be labelled.
    """

    asker: Asker
    seed: int
    prior: float
    settled: float
    knockout: float
    ramp: tuple[int, int]
    believed: float
    labelled: float
    relational: float
    believed_from: tuple[int, float, float] | None = None

    @property
    def layout(self) -> Layout:
        """Where pictures lie among the tokens."""
        return self.asker.layout

    def __call__(self, stage: str, step: int) -> Batch:
        """The batch of one step."""
        rng = np.random.default_rng([self.seed, STAGES.index(stage), step])
        if stage == "settling":
            return replace(self, prior=self.settled, believed=0.0)._asked(rng)
        if stage == "shaping":
            shaping = replace(self, prior=self.settled, asker=self.asker.relating(self.relational))
            if self.believed_from is None or step < self.believed_from[0]:
                return shaping._asked(rng)
            _, before, behind = self.believed_from
            return replace(shaping, believed=before)._asked(rng, behind)
        plain = replace(self, believed=0.0)
        if stage == "vision":
            return plain._vision(rng, min(1.0, max(0.0, (self.ramp[1] - step) / (self.ramp[1] - self.ramp[0]))))
        if stage == "captions":
            return plain._captioned(rng, replace(HARDER, n_cards=(2, 4), one_digit=0.8))
        return plain._asked(rng)

    def _asked(self, rng: np.random.Generator, behind: float | None = None) -> Batch:
        """One step of the mixture; `behind`: what is believed with the question first, if it is another share."""
        asker, believed = self.asker, self.believed
        shapes = asker.mixture.shapes
        shape = str(rng.choice(list(shapes), p=list(shapes.values())))
        if shape == "captions":
            return self._captioned(rng, None)
        if shape == "naming":
            return self._vision(rng, clear=0.0)
        if shape == "one question":
            return self._one_image(rng, lambda scene, _: asker.conversation(rng, [scene], believed))
        if shape == "bare question":  # short rows: three times the questions for the time
            return self._one_image(rng, lambda scene, _: [asker.question(rng, [scene], "question", believed)])
        if shape == "two turns":
            return self._one_image(rng, lambda scene, _: asker.two_turns(rng, scene, believed), n=8)
        if shape == "two images":
            return self._two_images(rng)
        return (self if behind is None else replace(self, believed=behind))._question_first(rng)

    def _vision(self, rng: np.random.Generator, clear: float, n: int = 20) -> Batch:
        """Dense pictures: mosaics, which show the most handwriting per visual token, and one scene in four. From scenes alone reading
        hardly starts: a glyph lies across tokens at any offset, and each offset must be learned. At `clear` 1 they are bright and show one
        digit a card, at 0 they are a little dimmer and noisier than the benchmark's.
        """
        size = self._size(rng)
        options = replace(
            HARDER,
            n_cards=(4, 6),
            contrast=(HARDER.contrast[0] + 0.8 * clear * (HARDER.contrast[1] - HARDER.contrast[0]), HARDER.contrast[1]),
            noise=(0.0, HARDER.noise[1] * (1 - 0.8 * clear)),
            one_digit=SINGLES + clear * (1 - SINGLES),
            inside_centre=self.layout.crops,
            size=size,
        )
        pool = material("train")
        scenes = [self._mosaic(rng, options) if rng.random() < 0.75 else draw_scene(rng, pool, options) for _ in range(n)]
        pictures = [[self._picture(s)] for s in scenes]
        return Batch(self._inputs(rng, pictures, relit=1 - clear), dense=torch.stack([self._dense(s) for s in scenes]))

    def _size(self, rng: np.random.Generator) -> Size | None:
        """The size that all pictures of a step share where their layout depends on it; in steps of 16 px, so that few are to be known."""
        if not self.layout.varies:
            return None
        width, height = draw_size(rng)
        return (round(width / 16) * 16, round(height / 16) * 16)

    def _mosaic(self, rng: np.random.Generator, options: SceneOptions) -> Scene:
        """A picture at the model's own size, full of cards in rows, all of one size, each row at its own offset."""
        size = options.size or self.layout.own_size
        assert size is not None
        (wide, high), edge = size, min(size)
        glyph = round(edge * rng.uniform(*options.glyph_size))
        card = glyph + 2 * max(1, round(PADDING * glyph))
        pool = material("train")
        cards: list[Card] = []
        y = int(rng.integers(card))
        while y + card <= high:
            x = int(rng.integers(card))
            while True:
                digits = tuple(int(d) for d in rng.integers(0, 10, draw_count(rng, options.one_digit)))
                width = card + (len(digits) - 1) * glyph
                if x + width > wide:
                    break
                ink = tuple(int(rng.choice(pool.of_digit(d))) for d in digits)
                colour = list(COLOURS)[int(rng.integers(len(COLOURS)))]
                cards.append(Card(colour, (x, y, x + width, y + card), ink, digits, glyph, float(rng.uniform(0.85, 1.0))))
                x += width + int(rng.integers(3))
            y += card + int(rng.integers(3))
        photo = int(rng.integers(len(pool.photos)))
        across, down = pool.photos[photo].size
        box = (0, 0, min(wide, across), min(high, down))
        contrast, noise = float(rng.uniform(*options.contrast)), float(rng.uniform(*options.noise))
        return Scene(size, photo, box, float(rng.uniform(0.5, 1.0)), tuple(cards), contrast, noise, int(rng.integers(2**31)))

    def _one_image(self, rng: np.random.Generator, ask: Callable[[Scene, int], list[Turn]], *, n: int = 12, rows: int = 4) -> Batch:
        size = self._size(rng)
        scenes = [self._scene(rng, size=size) for _ in range(n)]
        inputs = self._inputs(rng, [[self._picture(scene)] for scene in scenes])
        conversations = [ask(scene, k) for scene in scenes for k in range(rows)]
        return self._packed(rng, inputs, [(scene.size,) for scene in scenes], conversations, [s for s in scenes for _ in range(rows)])

    def _captioned(self, rng: np.random.Generator, options: SceneOptions | None, n: int = 16, rows: int = 4) -> Batch:
        """Captions, one in four left to right, with the labels of every visual token. Simpler scenes at first, to let binding begin."""
        size = self._size(rng)
        if options is not None:
            options = replace(options, inside_centre=self.layout.crops, size=size)
        scenes = [draw_scene(rng, material("train"), options) if options else self._scene(rng, prior=0.0, size=size) for _ in range(n)]
        inputs = self._inputs(rng, [[self._picture(scene)] for scene in scenes])
        turns = [[self.asker.caption(rng, [scene], shuffled=k > 0)] for scene in scenes for k in range(rows)]
        batch = self._packed(rng, inputs, [(scene.size,) for scene in scenes], turns)
        return replace(batch, dense=torch.stack([self._dense(scene) for scene in scenes]))

    def _two_images(self, rng: np.random.Generator, n: int = 8, rows: int = 4) -> Batch:
        size = self._size(rng)
        groups: list[list[Image.Image]] = []
        conversations: list[list[Turn]] = []
        for _ in range(n):
            scenes, pair = self._pair(rng, size)
            groups.append(pair)
            conversations += [self.asker.conversation(rng, scenes, self.believed) for _ in range(rows)]
        inputs = self._inputs(rng, groups)
        return self._packed(rng, inputs, [tuple(picture.size for picture in group) for group in groups], conversations)

    def _question_first(self, rng: np.random.Generator, n: int = 20) -> Batch:
        """Pictures after the first question: one picture mostly, in every form, or two turns; else two pictures."""
        shape = str(rng.choice(["one", "two turns", "two images"], p=[0.8, 0.1, 0.1]))
        size = self._size(rng)
        groups: list[list[Image.Image]] = []
        rows: list[Row] = []
        shown: list[Scene] = []
        for _ in range(n // 2 if shape == "two images" else n):
            scenes, pictures = self._pair(rng, size) if shape == "two images" else self._alone(rng, size)
            if shape == "two turns":
                turns = self.asker.two_turns(rng, scenes[0], self.believed)
            elif rng.random() < 0.2:
                turns = [self.asker.question(rng, scenes, "question", self.believed)]
            else:
                turns = self.asker.conversation(rng, scenes, self.believed)
            groups.append(pictures)
            shown += scenes[:1]
            rows.append(self.asker.question_first(turns, tuple(picture.size for picture in pictures)))
        batch = self._padded(self._inputs(rng, groups), None, rows, [True] * len(rows))
        return batch if shape == "two images" else replace(batch, looks=self._looks(rows, shown))

    def _packed(
        self,
        rng: np.random.Generator,
        inputs: dict[str, torch.Tensor],
        sizes: list[tuple[Size, ...]],
        conversations: list[list[Turn]],
        scenes: list[Scene] | None = None,
    ) -> Batch:
        """Rows that share their pictures' keys. With each row's scene, where a question's card is looked at is known as well."""
        rows = [self.asker.after_images(turns, len(sizes[0])) for turns in conversations]
        prefix = torch.tensor([self.layout.prefix(each) for each in sizes])
        batch = self._padded(inputs, prefix, rows, list(rng.random(len(rows)) >= self.knockout))
        return batch if scenes is None else replace(batch, looks=self._looks(rows, scenes))

    @staticmethod
    def _padded(inputs: dict[str, torch.Tensor], prefix: torch.Tensor | None, rows: list[Row], open_rows: list[bool]) -> Batch:
        longest = max(len(row.ids) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        weights = torch.zeros(len(rows), longest)
        readers = torch.zeros(len(rows), longest, dtype=torch.bool)
        for k, (row, is_open) in enumerate(zip(rows, open_rows, strict=True)):
            ids[k, : len(row.ids)] = torch.tensor(row.ids)
            weights[k, : len(row.ids)] = torch.tensor(row.weights)
            readers[k, : len(row.ids)] = True if is_open else torch.tensor(row.readers)
        firsts = torch.tensor([row.first_answer for row in rows])
        return Batch(inputs, prefix, ids, weights, readers, tuple(row.kind for row in rows), firsts)

    def _looks(self, rows: list[Row], scenes: list[Scene]) -> Looks | None:
        """A look from every token that a digit of the answer follows, at the tokens that more than a trace of the card lies under."""
        found: list[tuple[int, int]] = []
        targets: list[list[np.ndarray]] = []
        for k, (row, scene) in enumerate(zip(rows, scenes, strict=True)):
            for position, (named, asked) in row.looks:
                for place, digit in enumerate(asked.digit_boxes):
                    found.append((k, position + place))
                    targets.append([self.layout.coverage(scene.size, box) > _TOUCHED for box in (named.box, asked.box, digit)])
        if not found:
            return None
        row, position = torch.tensor(found).T
        return Looks(row, position, torch.from_numpy(np.array(targets)).float().transpose(0, 1))

    def _scene(self, rng: np.random.Generator, prior: float | None = None, n_cards: tuple[int, int] = (2, 5), **more: Any) -> Scene:
        prior = self.prior if prior is None else prior
        return draw_scene(rng, material("train"), SceneOptions(prior=prior, n_cards=n_cards, inside_centre=self.layout.crops, **more))

    def _alone(self, rng: np.random.Generator, size: Size | None) -> tuple[list[Scene], list[Image.Image]]:
        scene = self._scene(rng, size=size)
        return [scene], [self._picture(scene)]

    def _pair(self, rng: np.random.Generator, size: Size | None) -> tuple[list[Scene], list[Image.Image]]:
        """Two pictures: of two scenes without a common colour, of one scene twice, or of one scene and a crop of it."""
        kind = rng.random()
        if kind < 0.4:
            colours = [str(c) for c in rng.permutation(list(COLOURS))]
            scenes = [self._scene(rng, n_cards=(2, 3), colours=tuple(part), size=size) for part in (colours[:4], colours[4:])]
            return scenes, [self._picture(s) for s in scenes]
        scene = self._scene(rng, size=size)
        picture = self._picture(scene)
        if kind < 0.7:
            return [scene], [picture, picture]
        card = scene.cards[int(rng.integers(len(scene.cards)))]
        crop = picture.crop(_around(rng, card.box, picture.size, square=not self.layout.varies))
        return [scene], [picture, crop if size is None else crop.resize(size, Image.Resampling.BICUBIC)]

    @staticmethod
    def _picture(scene: Scene) -> Image.Image:
        return scene.render(material("train"))

    def _inputs(self, rng: np.random.Generator, groups: list[list[Image.Image]], relit: float = 1.0) -> dict[str, torch.Tensor]:
        return self.layout.inputs([[_relit(rng, p) if rng.random() < relit else p for p in group] for group in groups])

    def _dense(self, scene: Scene) -> torch.Tensor:
        """Labels (visual token, 3): colour + 1, digit + 1, and which of how many digits (1 to 6); 0 off the cards and without a region."""
        boxes = self.layout.places((scene.size,))[0]
        middles = (boxes[:, 0] + boxes[:, 2]) / 2
        labels = np.zeros((len(boxes), 3), dtype=np.int64)
        best = np.full(len(boxes), self.labelled)
        for card in scene.cards:
            cover = self.layout.coverage(scene.size, card.box)
            mine = cover > best
            best = np.where(mine, cover, best)
            n = len(card.digits)
            place = np.clip(((middles[mine] - card.box[0]) / (card.box[2] - card.box[0]) * n).astype(int), 0, n - 1)
            labels[mine, 0] = list(COLOURS).index(card.colour) + 1
            labels[mine, 1] = np.array(card.digits)[place] + 1
            labels[mine, 2] = n * (n - 1) // 2 + place + 1
        return torch.from_numpy(labels)


def _relit(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """Photometric augmentation: global brightness, and half the time a smooth random dimming; blind to what is asked."""
    gain = np.float32(rng.uniform(0.45, 1.05))
    pixels = np.asarray(picture, dtype=np.float32) * gain
    if rng.random() < 0.5:
        coarse = Image.fromarray(rng.uniform(0, 1, (4, 4)).astype(np.float32))
        field = np.asarray(coarse.resize(picture.size, Image.Resampling.BICUBIC))
        pixels = pixels * (np.float32(rng.uniform(0.4, 1.0)) * (1 - np.clip(field, 0, 1)) + np.clip(field, 0, 1))[..., None]
    return Image.fromarray(np.uint8(np.clip(pixels, 0, 255)))


def _around(rng: np.random.Generator, box: tuple[int, int, int, int], size: tuple[int, int], *, square: bool) -> tuple[int, int, int, int]:
    """A part of the picture that holds a box: a square, or of the picture's own shape."""
    share = rng.uniform(0.5, 0.9)
    whole = (min(size), min(size)) if square else size
    sides = [max(int(edge * share), high - low) for edge, low, high in zip(whole, box[:2], box[2:], strict=True)]
    if square:
        sides = [max(sides)] * 2
    corner = []
    for low, high, limit, side in zip(box[:2], box[2:], size, sides, strict=True):
        first, last = max(0, high - side), min(low, limit - side)
        corner.append(int(rng.integers(first, last + 1)) if last >= first else max(0, min(first, limit - side)))
    return (corner[0], corner[1], corner[0] + sides[0], corner[1] + sides[1])
