"""Scenes: handwritten digits on coloured cards, laid on part of a photograph.

A :class:`Scene` is a complete, immutable description; :meth:`Scene.render` turns it into a picture. Two scenes that differ in one
card's colour therefore differ in nothing else, which is what makes the prior arms paired.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image

from interp.benchmarks.digits.assets import Material

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.15, 0.15),
    "green": (0.15, 0.75, 0.20),
    "blue": (0.20, 0.30, 0.95),
    "yellow": (0.95, 0.90, 0.20),
    "purple": (0.65, 0.20, 0.80),
    "cyan": (0.20, 0.85, 0.90),
    "orange": (1.00, 0.55, 0.10),
    "white": (1.00, 1.00, 1.00),
}
PRIOR: dict[str, int] = {"red": 2, "blue": 7, "yellow": 4, "purple": 6}  # in training these colours carry this digit far more often
NEUTRAL = tuple(colour for colour in COLOURS if colour not in PRIOR)

Relation = Literal["left of", "right of", "above", "below"]
RELATIONS: tuple[Relation, ...] = get_args(Relation)
Box = tuple[int, int, int, int]

PADDING = 0.18  # card border around the writing, in glyph sides
_GAP = 0.03  # least distance between cards, in short sides of the picture
_TRIES = 400
SINGLES = 0.6  # share of the cards that are not asked about with one digit; of the rest five in eight have two, the others three


class _Crowded(Exception):
    """No room for the cards drawn; the caller draws again."""


@dataclass(frozen=True, slots=True)
class Card:
    """One card: its colour, its box, the glyphs written on it (indices into the split's material) and the digits they show."""

    colour: str
    box: Box
    glyphs: tuple[int, ...]
    digits: tuple[int, ...]
    glyph_size: int
    shade: float

    @property
    def text(self) -> str:
        """The digits as a reader would say them: ``4 7``."""
        return " ".join(map(str, self.digits))

    @property
    def digit_boxes(self) -> tuple[Box, ...]:
        """One box per glyph, in reading order, in the picture's pixels."""
        x0, y0, _, y1 = self.box
        side, pad = self.glyph_size, (y1 - y0 - self.glyph_size) // 2
        return tuple((x0 + pad + k * side, y0 + pad, x0 + pad + (k + 1) * side, y0 + pad + side) for k in range(len(self.glyphs)))


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything a picture is made from. `size` is (width, height); `photo_box` cuts the background from photograph `photo`."""

    size: tuple[int, int]
    photo: int
    photo_box: Box
    photo_gain: float
    cards: tuple[Card, ...]
    contrast: float
    noise: float
    noise_seed: int

    def card(self, colour: str) -> Card | None:
        """The card of that colour, if there is one (colours are distinct)."""
        return next((card for card in self.cards if card.colour == colour), None)

    def neighbour(self, anchor: Card, relation: Relation) -> Card | None:
        """The one card that is `relation` (say, left of) `anchor`: on that side, level with it by at least half.

        None where there is no such card, or where a second one on that side is level with the anchor at all.
        """
        found = [card for card in self.cards if card is not anchor and _level(card.box, relation, anchor.box) > 0]
        return found[0] if len(found) == 1 and _level(found[0].box, relation, anchor.box) >= 0.5 else None

    def render(self, material: Material) -> Image.Image:
        """The picture, RGB, 8 bits. `material` must be that of the split the scene was drawn for."""
        background = material.photos[self.photo].resize(self.size, Image.Resampling.BICUBIC, box=self.photo_box)
        canvas = np.asarray(background, dtype=np.float32) / 255 * self.photo_gain
        for card in self.cards:
            x0, y0, x1, y1 = card.box
            patch = np.ones((y1 - y0, x1 - x0, 3), np.float32) * np.asarray(COLOURS[card.colour], np.float32) * np.float32(card.shade)
            for glyph, (gx0, gy0, gx1, gy1) in zip(card.glyphs, card.digit_boxes, strict=True):
                image = Image.fromarray(material.glyphs[glyph].astype(np.float32)).resize((gx1 - gx0, gy1 - gy0), Image.Resampling.BICUBIC)
                ink = np.clip(np.asarray(image), 0, 1)[..., None]
                patch[gy0 - y0 : gy1 - y0, gx0 - x0 : gx1 - x0] *= 1 - np.float32(self.contrast) * ink
            canvas[y0:y1, x0:x1] = patch
        grain = np.random.default_rng(self.noise_seed).standard_normal(canvas.shape, dtype=np.float32)
        return Image.fromarray(np.uint8(np.rint(np.clip(canvas + np.float32(self.noise) * grain, 0, 1) * 255)))


@dataclass(frozen=True, slots=True)
class SceneOptions:
    """What a draw may use. `prior` is the chance that a one-digit card of a `PRIOR` colour carries that colour's digit
    (0: digits are uniform); `inside_centre` keeps every card in the central square, which a centre-cropping model sees; `size` is the
    picture's (width, height), drawn where it is None.
    """

    colours: tuple[str, ...] = tuple(COLOURS)
    n_cards: tuple[int, int] = (2, 5)
    contrast: tuple[float, float] = (0.6, 1.0)
    noise: tuple[float, float] = (0.0, 0.05)
    glyph_size: tuple[float, float] = (0.13, 0.18)  # in short sides of the picture
    one_digit: float = SINGLES
    prior: float = 0.0
    inside_centre: bool = False
    size: tuple[int, int] | None = None


def draw_scene(
    rng: np.random.Generator,
    material: Material,
    options: SceneOptions,
    *,
    asked_digits: tuple[int, ...] | None = None,
    asked_count: int | None = None,
    asked_colour: str | None = None,
    relation: Relation | None = None,
) -> Scene:
    """A random scene whose *first* card is the one to be asked about.

    `asked_digits` fixes what it shows, `asked_count` only how many digits, `asked_colour` its colour. With `relation` the second card
    is the anchor, and the first is the one card that stands in that relation to it.
    """
    while True:
        try:
            return _draw(rng, material, options, asked_digits, asked_count, asked_colour, relation)
        except _Crowded:
            continue


def _draw(
    rng: np.random.Generator,
    material: Material,
    options: SceneOptions,
    asked_digits: tuple[int, ...] | None,
    asked_count: int | None,
    asked_colour: str | None,
    relation: Relation | None,
) -> Scene:
    width, height = options.size or draw_size(rng)
    short = min(width, height)
    n_cards = int(rng.integers(options.n_cards[0], options.n_cards[1] + 1))
    colours = [str(c) for c in rng.permutation([c for c in options.colours if c != asked_colour])]
    if asked_colour is not None:
        colours.insert(0, asked_colour)
    side = round(short * rng.uniform(*options.glyph_size))
    pad = max(1, round(PADDING * side))
    area = _centre_square(width, height) if options.inside_centre else (0, 0, width, height)
    cards: list[Card] = []
    for k, colour in enumerate(colours[:n_cards]):
        if k == 0 and asked_digits is not None:
            digits = asked_digits
        else:
            count = asked_count if k == 0 and asked_count is not None else draw_count(rng, options.one_digit)
            digits = tuple(int(d) for d in rng.integers(0, 10, count))
            if count == 1 and colour in PRIOR and rng.random() < options.prior:
                digits = (PRIOR[colour],)
        extent = (len(digits) * side + 2 * pad, side + 2 * pad)
        box = _place(rng, extent, area, [c.box for c in cards], _GAP * short, relation if k == 1 else None)
        glyphs = tuple(int(rng.choice(material.of_digit(d))) for d in digits)
        cards.append(Card(colour, box, glyphs, digits, side, float(rng.uniform(0.85, 1.0))))
    photo = int(rng.integers(len(material.photos)))
    scene = Scene(
        size=(width, height),
        photo=photo,
        photo_box=_photo_box(rng, material.photos[photo].size, width / height),
        photo_gain=float(rng.uniform(0.5, 1.0)),
        cards=tuple(cards),
        contrast=float(rng.uniform(*options.contrast)),
        noise=float(rng.uniform(*options.noise)),
        noise_seed=int(rng.integers(2**31)),
    )
    if relation is not None and scene.neighbour(cards[1], relation) is not cards[0]:
        raise _Crowded
    return scene


def draw_count(rng: np.random.Generator, one_digit: float) -> int:
    """How many digits a card shows: one with chance `one_digit`, otherwise two (five in eight) or three."""
    draw = rng.random()
    return 1 if draw < one_digit else 2 if draw < one_digit + (1 - one_digit) * 0.625 else 3


def draw_size(rng: np.random.Generator) -> tuple[int, int]:
    """A picture's (width, height): a square of one of four sizes, or up to half as long again on one side."""
    short = int(rng.choice([160, 176, 192, 224]))
    if rng.random() < 0.65:
        return short, short
    long = round(short * rng.uniform(1.15, 1.5))
    return (long, short) if rng.random() < 0.5 else (short, long)


def _centre_square(width: int, height: int) -> Box:
    short = min(width, height)
    # One pixel of room: which way a processor rounds an odd remainder is its own affair.
    x0, y0 = (width - short + 1) // 2, (height - short + 1) // 2
    return (x0 + (x0 > 0), y0 + (y0 > 0), x0 + short - (x0 > 0), y0 + short - (y0 > 0))


def _photo_box(rng: np.random.Generator, size: tuple[int, int], aspect: float) -> Box:
    width, height = size
    largest = min(width, height * aspect)
    w = largest * rng.uniform(0.55, 1.0)
    h = w / aspect
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    return (int(x), int(y), int(x + w), int(y + h))


def _place(rng: np.random.Generator, extent: tuple[int, int], area: Box, taken: list[Box], gap: float, relation: Relation | None) -> Box:
    w, h = extent
    x0, y0, x1, y1 = area
    if x1 - x0 < w or y1 - y0 < h:
        raise _Crowded
    for _ in range(_TRIES):
        x, y = int(rng.integers(x0, x1 - w + 1)), int(rng.integers(y0, y1 - h + 1))
        box = (x, y, x + w, y + h)
        if any(x - gap < b[2] and b[0] < x + w + gap and y - gap < b[3] and b[1] < y + h + gap for b in taken):
            continue
        if relation is not None and _level(taken[0], relation, box) < 0.5:  # taken[0] is asked about, this card anchors it
            continue
        return box
    raise _Crowded


def _level(box: Box, relation: Relation, anchor: Box) -> float:
    """How level `box` is with `anchor`, as a share of the smaller extent; 0 unless it lies wholly on that side of it."""
    across = 1 if relation in ("left of", "right of") else 0
    along = 1 - across
    beside = box[along + 2] <= anchor[along] if relation in ("left of", "above") else box[along] >= anchor[along + 2]
    overlap = min(box[across + 2], anchor[across + 2]) - max(box[across], anchor[across])
    return max(0, overlap) / min(box[across + 2] - box[across], anchor[across + 2] - anchor[across]) if beside else 0.0
