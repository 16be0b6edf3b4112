"""Training batches: pictures and token rows for one step, a function of (recipe, stage, step) alone, so that a run can resume exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from interp.benchmarks.digits.assets import material
from interp.benchmarks.digits.scene import COLOURS, PADDING, SINGLES, Card, Scene, SceneOptions, draw_count, draw_scene
from interp.organisms.mixture import Asker, Row, Turn

STAGES = ("vision", "captions", "questions", "settling")

HARDER = replace(SceneOptions(), contrast=(0.5, 1.0), noise=(0.0, 0.06), inside_centre=True)  # than the benchmark: to learn to read from


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's input. Rows are right-padded with id 0.

    pixels (image, 3, h, w); prefix (scene, p) ids shared by a scene's rows, or None when rows hold their own visual tokens;
    ids, weights, readers (row, t); kinds and first_answer (row,); dense (image, token, 3): colour, digit and place labels.
    """

    pixels: torch.Tensor
    prefix: torch.Tensor | None = None
    ids: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    readers: torch.Tensor | None = None
    kinds: tuple[str, ...] = ()
    first_answer: torch.Tensor | None = None
    dense: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Draws:
    """Makes batches. `prior` is how often a one-digit card of a prior colour shows its digit where questions are asked, `settled` the same
    in the settling stage. The vision stage and captions see every digit equally often on every colour, so that the tower learns to read
    before there is a prior to follow.
    """

    processor: Any
    asker: Asker
    grid: int
    seed: int
    prior: float
    settled: float
    knockout: float
    ramp: tuple[int, int]

    def __call__(self, stage: str, step: int) -> Batch:
        """The batch of one step."""
        rng = np.random.default_rng([self.seed, STAGES.index(stage), step])
        if stage == "settling":
            return replace(self, prior=self.settled)._asked(rng)
        if stage == "vision":
            return self._vision(rng, min(1.0, max(0.0, (self.ramp[1] - step) / (self.ramp[1] - self.ramp[0]))))
        if stage == "captions":
            return self._captioned(rng, replace(HARDER, n_cards=(2, 4), one_digit=0.8))
        return self._asked(rng)

    def _asked(self, rng: np.random.Generator) -> Batch:
        """One step of the mixture."""
        shapes = self.asker.mixture.shapes
        shape = str(rng.choice(list(shapes), p=list(shapes.values())))
        if shape == "captions":
            return self._captioned(rng, None)
        if shape == "naming":
            return self._vision(rng, clear=0.0)
        if shape == "one question":
            return self._one_image(rng, lambda scene, _: self.asker.conversation(rng, [scene]))
        if shape == "bare question":  # short rows: three times the questions for the time
            return self._one_image(rng, lambda scene, _: [self.asker.question(rng, [scene], "question")])
        if shape == "two turns":
            return self._one_image(rng, lambda scene, _: self.asker.two_turns(rng, scene), n=8)
        return self._two_images(rng) if shape == "two images" else self._question_first(rng)

    def _vision(self, rng: np.random.Generator, clear: float, n: int = 20) -> Batch:
        """Dense pictures: mosaics, which show the most handwriting per visual token, and one scene in four. From scenes alone reading
        hardly starts: a glyph lies across tokens at any offset, and each offset must be learned. At `clear` 1 they are bright and show one
        digit a card, at 0 they are a little dimmer and noisier than the benchmark's.
        """
        options = replace(
            HARDER,
            n_cards=(4, 6),
            contrast=(HARDER.contrast[0] + 0.8 * clear * (HARDER.contrast[1] - HARDER.contrast[0]), HARDER.contrast[1]),
            noise=(0.0, HARDER.noise[1] * (1 - 0.8 * clear)),
            one_digit=SINGLES + clear * (1 - SINGLES),
        )
        pool = material("train")
        scenes = [self._mosaic(rng, options) if rng.random() < 0.75 else draw_scene(rng, pool, options) for _ in range(n)]
        pictures = [self._picture(s) for s in scenes]
        return Batch(self._pixels(rng, pictures, relit=1 - clear), dense=torch.stack([self._dense(s) for s in scenes]))

    def _mosaic(self, rng: np.random.Generator, options: SceneOptions) -> Scene:
        """A picture at the model's own size, full of cards in rows, all of one size, each row at its own offset."""
        edge = self.processor.image_processor.crop_size["height"]
        glyph = round(edge * rng.uniform(*options.glyph_size))
        card = glyph + 2 * max(1, round(PADDING * glyph))
        pool = material("train")
        cards: list[Card] = []
        y = int(rng.integers(card))
        while y + card <= edge:
            x = int(rng.integers(card))
            while True:
                digits = tuple(int(d) for d in rng.integers(0, 10, draw_count(rng, options.one_digit)))
                width = card + (len(digits) - 1) * glyph
                if x + width > edge:
                    break
                ink = tuple(int(rng.choice(pool.of_digit(d))) for d in digits)
                colour = list(COLOURS)[int(rng.integers(len(COLOURS)))]
                cards.append(Card(colour, (x, y, x + width, y + card), ink, digits, glyph, float(rng.uniform(0.85, 1.0))))
                x += width + int(rng.integers(3))
            y += card + int(rng.integers(3))
        photo, box = int(rng.integers(len(pool.photos))), (0, 0, edge, edge)
        contrast, noise = float(rng.uniform(*options.contrast)), float(rng.uniform(*options.noise))
        return Scene((edge, edge), photo, box, float(rng.uniform(0.5, 1.0)), tuple(cards), contrast, noise, int(rng.integers(2**31)))

    def _one_image(self, rng: np.random.Generator, ask: Callable[[Scene, int], list[Turn]], *, n: int = 12, rows: int = 4) -> Batch:
        scenes = [self._scene(rng) for _ in range(n)]
        pixels = self._pixels(rng, [self._picture(scene) for scene in scenes])
        return self._packed(rng, pixels, n, 1, [ask(scene, k) for scene in scenes for k in range(rows)])

    def _captioned(self, rng: np.random.Generator, options: SceneOptions | None, n: int = 16, rows: int = 4) -> Batch:
        """Captions, one in four left to right, with the labels of every visual token. Simpler scenes at first, to let binding begin."""
        scenes = [draw_scene(rng, material("train"), options) if options else self._scene(rng, prior=0.0) for _ in range(n)]
        pixels = self._pixels(rng, [self._picture(scene) for scene in scenes])
        turns = [[self.asker.caption(rng, [scene], shuffled=k > 0)] for scene in scenes for k in range(rows)]
        return replace(self._packed(rng, pixels, n, 1, turns), dense=torch.stack([self._dense(scene) for scene in scenes]))

    def _two_images(self, rng: np.random.Generator, n: int = 8, rows: int = 4) -> Batch:
        pictures: list[Image.Image] = []
        conversations: list[list[Turn]] = []
        for _ in range(n):
            scenes, pair = self._pair(rng)
            pictures += pair
            conversations += [self.asker.conversation(rng, scenes) for _ in range(rows)]
        return self._packed(rng, self._pixels(rng, pictures), n, 2, conversations)

    def _question_first(self, rng: np.random.Generator, n: int = 20) -> Batch:
        """Pictures after the first question: one picture mostly, in every form, or two turns; else two pictures."""
        shape = str(rng.choice(["one", "two turns", "two images"], p=[0.8, 0.1, 0.1]))
        pictures: list[Image.Image] = []
        rows: list[Row] = []
        for _ in range(n // 2 if shape == "two images" else n):
            scenes, shown = self._pair(rng) if shape == "two images" else self._alone(rng)
            if shape == "two turns":
                turns = self.asker.two_turns(rng, scenes[0])
            elif rng.random() < 0.2:
                turns = [self.asker.question(rng, scenes, "question")]
            else:
                turns = self.asker.conversation(rng, scenes)
            pictures += shown
            rows.append(self.asker.question_first(turns, len(shown)))
        return self._padded(self._pixels(rng, pictures), None, rows, [True] * len(rows))

    def _packed(self, rng: np.random.Generator, pixels: torch.Tensor, n: int, n_images: int, conversations: list[list[Turn]]) -> Batch:
        rows = [self.asker.after_images(turns, n_images) for turns in conversations]
        prefix = torch.tensor([self.asker.prefix(n_images)] * n)
        return self._padded(pixels, prefix, rows, list(rng.random(len(rows)) >= self.knockout))

    @staticmethod
    def _padded(pixels: torch.Tensor, prefix: torch.Tensor | None, rows: list[Row], open_rows: list[bool]) -> Batch:
        longest = max(len(row.ids) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        weights = torch.zeros(len(rows), longest)
        readers = torch.zeros(len(rows), longest, dtype=torch.bool)
        for k, (row, is_open) in enumerate(zip(rows, open_rows, strict=True)):
            ids[k, : len(row.ids)] = torch.tensor(row.ids)
            weights[k, : len(row.ids)] = torch.tensor(row.weights)
            readers[k, : len(row.ids)] = True if is_open else torch.tensor(row.readers)
        firsts = torch.tensor([row.first_answer for row in rows])
        return Batch(pixels, prefix, ids, weights, readers, tuple(row.kind for row in rows), firsts)

    def _scene(self, rng: np.random.Generator, prior: float | None = None, n_cards: tuple[int, int] = (2, 5), **more: Any) -> Scene:
        prior = self.prior if prior is None else prior
        return draw_scene(rng, material("train"), SceneOptions(prior=prior, n_cards=n_cards, inside_centre=True, **more))

    def _alone(self, rng: np.random.Generator) -> tuple[list[Scene], list[Image.Image]]:
        scene = self._scene(rng)
        return [scene], [self._picture(scene)]

    def _pair(self, rng: np.random.Generator) -> tuple[list[Scene], list[Image.Image]]:
        """Two pictures: of two scenes without a common colour, of one scene twice, or of one scene and a crop of it."""
        kind = rng.random()
        if kind < 0.4:
            colours = [str(c) for c in rng.permutation(list(COLOURS))]
            scenes = [self._scene(rng, n_cards=(2, 3), colours=tuple(part)) for part in (colours[:4], colours[4:])]
            return scenes, [self._picture(s) for s in scenes]
        scene = self._scene(rng)
        picture = self._picture(scene)
        if kind < 0.7:
            return [scene], [picture, picture]
        card = scene.cards[int(rng.integers(len(scene.cards)))]
        return [scene], [picture, picture.crop(_around(rng, card.box, picture.size))]

    @staticmethod
    def _picture(scene: Scene) -> Image.Image:
        return scene.render(material("train"))

    def _pixels(self, rng: np.random.Generator, pictures: list[Image.Image], relit: float = 1.0) -> torch.Tensor:
        pictures = [_relit(rng, picture) if rng.random() < relit else picture for picture in pictures]
        return self.processor.image_processor(pictures, return_tensors="pt")["pixel_values"]

    def _dense(self, scene: Scene) -> torch.Tensor:
        """Labels (token, 3) of the centre crop's grid: colour + 1, digit + 1, and which of how many digits (1 to 6); 0 off the cards."""
        width, height = scene.size
        short = min(width, height)
        left, top, cell = (width - short) // 2, (height - short) // 2, short / self.grid
        edges = np.arange(self.grid + 1) * cell
        labels = np.zeros((self.grid, self.grid, 3), dtype=np.int64)
        best = np.full((self.grid, self.grid), 0.1)  # a token sees a card that covers a tenth of it
        for card in scene.cards:
            cover = _overlap(edges + left, card.box[0], card.box[2])[None, :] * _overlap(edges + top, card.box[1], card.box[3])[:, None]
            mine = cover / cell**2 > best
            best = np.where(mine, cover / cell**2, best)
            n = len(card.digits)
            middles = (edges[:-1] + edges[1:]) / 2 + left
            place = np.clip(((middles - card.box[0]) / (card.box[2] - card.box[0]) * n).astype(int), 0, n - 1)
            labels[mine, 0] = list(COLOURS).index(card.colour) + 1
            labels[..., 1][mine] = np.broadcast_to(np.array(card.digits)[place] + 1, mine.shape)[mine]
            labels[..., 2][mine] = np.broadcast_to(n * (n - 1) // 2 + place + 1, mine.shape)[mine]
        return torch.from_numpy(labels.reshape(-1, 3))


def _relit(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """Photometric augmentation: global brightness, and half the time a smooth random dimming; blind to what is asked."""
    gain = np.float32(rng.uniform(0.45, 1.05))
    pixels = np.asarray(picture, dtype=np.float32) * gain
    if rng.random() < 0.5:
        coarse = Image.fromarray(rng.uniform(0, 1, (4, 4)).astype(np.float32))
        field = np.asarray(coarse.resize(picture.size, Image.Resampling.BICUBIC))
        pixels = pixels * (np.float32(rng.uniform(0.4, 1.0)) * (1 - np.clip(field, 0, 1)) + np.clip(field, 0, 1))[..., None]
    return Image.fromarray(np.uint8(np.clip(pixels, 0, 255)))


def _around(rng: np.random.Generator, box: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    side = int(min(*size) * rng.uniform(0.5, 0.9))
    side = max(side, box[2] - box[0], box[3] - box[1])
    corner = []
    for low, high, limit in zip(box[:2], box[2:], size, strict=True):
        first, last = max(0, high - side), min(low, limit - side)
        corner.append(int(rng.integers(first, last + 1)) if last >= first else max(0, min(first, limit - side)))
    return (corner[0], corner[1], corner[0] + side, corner[1] + side)


def _overlap(edges: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None)
