"""Is a token's box where the token really looks? A small marker is drawn on a plain picture, and the tokens that move are compared.

In a whole vision tower every token attends to every other, so a marker moves all of them; what can be compared is only which one it moves
most, and a tower may mix so strongly that not even that is its own. With the tower's attention silenced a token is its own part of the
picture and nothing else: then the tokens that move must be exactly those whose boxes hold the marker.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from interp.benchmarks.sample import Sample
from interp.certificate.subject import GREY
from interp.decoding import Run
from interp.encoding import Encoding
from interp.errors import ModelError
from interp.geometry import overlap_with_union
from interp.vlm import VLM

_COLOUR = (255, 255, 0)
_READABLE = 3.0  # processed pixels, and
_SHARE = 0.25  # share of a token's box, that a marker must measure for the token to have to notice it
_LATTICE = 9  # places across and down where a part of the picture that no token sees is looked for

_Floats = NDArray[np.floating]


Box = tuple[int, int, int, int]  # (x0, y0, x1, y1) in whole pixels of the original picture


@dataclass(frozen=True, slots=True)
class Marker:
    """One patch of colour, or several at once, on picture `picture` of the prompt."""

    picture: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True, eq=False)
class Responses:
    """How far each marker moves each token as it enters the first decoder layer.

    Parameters
    ----------
    encoding
        The prompt, which is the same for all markers.
    markers
        What was drawn, one at a time.
    change
        (marker, token) length of the difference from the plain picture.
    noise
        Share of the strongest response below which a token counts as not moved.
    """

    encoding: Encoding
    markers: tuple[Marker, ...]
    change: _Floats
    noise: float

    @property
    def expected(self) -> int:
        """How many of the markers some token must notice."""
        return sum(bool(_holding(self.encoding, marker).any()) for marker in self.markers)

    @property
    def peaks(self) -> int:
        """For how many markers the strongest token's box holds some of it."""
        strongest = self.change.argmax(axis=1)
        return sum(bool(_touching(self.encoding, marker)[token]) for marker, token in zip(self.markers, strongest, strict=True))

    def faults(self) -> list[str]:
        """What contradicts the boxes, a sentence per marker that does."""
        level = self.noise * float(np.median(self.change.max(axis=1)))
        said = (self._fault(marker, change, level) for marker, change in zip(self.markers, self.change, strict=True))
        return [sentence for sentence in said if sentence]

    def _fault(self, marker: Marker, change: _Floats, level: float) -> str:
        drawn = f"a marker at {marker.boxes[0]}" if len(marker.boxes) == 1 else f"{len(marker.boxes)} markers at once"
        where = f"{drawn} on picture {marker.picture} of {self.encoding.images[marker.picture].size} pixels"
        must, may = _holding(self.encoding, marker), _touching(self.encoding, marker, margin=True)
        strongest = int(change.argmax())
        moved = change > self.noise * change[strongest] if change[strongest] > level else np.zeros(len(change), dtype=bool)
        if not moved.any():
            return f"{where} moves no token, but is in the box of token {np.flatnonzero(must)[0]}" if must.any() else ""
        if not may[strongest]:
            return f"{where} moves token {strongest} most, {self._place(strongest)}"
        if (moved & ~may).any():
            return f"{where} also moves token {(token := int(np.flatnonzero(moved & ~may)[0]))}, {self._place(token)}"
        if (must & ~moved).any():
            return f"{where} does not move token {(token := int(np.flatnonzero(must & ~moved)[0]))}, {self._place(token)}"
        return ""

    def _place(self, token: int) -> str:
        box = self.encoding.token_boxes[token]
        if np.isnan(box).any():
            return "which stands for no part of the picture"
        corners = ", ".join(f"{value:.1f}" for value in box)
        return f"whose box is ({corners}) on picture {self.encoding.image_index[token]}"


def _touching(encoding: Encoding, marker: Marker, margin: bool = False) -> NDArray[np.bool_]:
    """(token,) True where a token's box holds some of the marker, or may have taken some in when the picture was resized."""
    # a pixel spreads over the resampling kernel, two processed pixels, and boxes are not whole numbers
    grown = 2 / np.minimum(encoding.token_scale, 1) + 1 if margin else np.zeros_like(encoding.token_scale)
    low, high, drawn = encoding.token_boxes[:, None, :2], encoding.token_boxes[:, None, 2:], np.asarray(marker.boxes, dtype=np.float64)
    overlap = np.minimum(high + grown[:, None], drawn[:, 2:]) > np.maximum(low - grown[:, None], drawn[:, :2])
    return overlap.all(axis=-1).any(axis=-1) & (encoding.image_index == marker.picture)


def _holding(encoding: Encoding, marker: Marker) -> NDArray[np.bool_]:
    """(token,) True where a token must notice the marker: its box holds the middle, and the marker is not too small to be seen there."""
    low, high, drawn = encoding.token_boxes[:, None, :2], encoding.token_boxes[:, None, 2:], np.asarray(marker.boxes, dtype=np.float64)
    middle, sides = (drawn[:, :2] + drawn[:, 2:]) / 2, drawn[:, 2:] - drawn[:, :2]
    held = (low < middle) & (middle < high)
    clear = (sides * encoding.token_scale[:, None] >= _READABLE) & (sides >= _SHARE * (high - low))
    return (held & clear).all(axis=-1).any(axis=-1) & (encoding.image_index == marker.picture)


def plain(sizes: Sequence[tuple[int, int]]) -> Sample:
    """Grey pictures of the given sizes (width, height) in one prompt."""
    return Sample("plain", [Image.new("RGB", size, (GREY,) * 3) for size in sizes], "What is in the picture?", "one")


def place(encoding: Encoding, random: np.random.Generator, count: int) -> tuple[Marker, ...]:
    """Per picture: `count` single markers, each over the middle half of some token's box; a quarter of all such places at once; and one
    where no token looks.

    Every token is equally likely, so a picture's views are tried in proportion to their tokens. Most geometries leave no place unseen.
    """
    markers = []
    sides = encoding.token_boxes[:, 2:] - encoding.token_boxes[:, :2]
    for picture, image in enumerate(encoding.images):
        shown = (encoding.image_index == picture) & (sides * encoding.token_scale >= 2 * _READABLE).all(axis=1)
        tokens = random.permutation(np.flatnonzero(shown))
        places = [_middle(encoding.token_boxes[token]) for token in tokens]
        many = places[count : count + -(-len(places) // 4)]
        markers += [Marker(picture, boxes) for boxes in (*((place,) for place in places[:count]), tuple(many)) if boxes]
        unseen = _unseen(encoding, picture, image.size)
        if len(unseen):
            markers.append(Marker(picture, (tuple(unseen[int(random.integers(len(unseen)))].tolist()),)))
    return tuple(markers)


def _middle(box: NDArray[np.float64]) -> Box:
    """The middle half of a box, in whole pixels."""
    quarter = (box[2:] - box[:2]) / 4
    x0, y0 = np.floor(box[:2] + quarter).astype(int).tolist()
    x1, y1 = np.ceil(box[2:] - quarter).astype(int).tolist()
    return x0, y0, x1, y1


def _unseen(encoding: Encoding, picture: int, size: tuple[int, int]) -> NDArray[np.int64]:
    """(n, 4) squares on the picture that no token's box comes near."""
    own = (encoding.image_index == picture) & ~np.isnan(encoding.token_boxes[:, 0]) & ~np.isnan(encoding.token_scale[:, 0])
    if not own.any():
        return np.empty((0, 4), dtype=np.int64)
    side = max(4, min(size) // 16)
    reach = int(np.ceil((2 / np.minimum(encoding.token_scale[own], 1)).max())) + 1
    x, y = (np.linspace(0, length - side, _LATTICE).astype(np.int64) for length in size)
    corners = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    squares = np.concatenate([corners, corners + side], axis=1)
    grown = squares + np.array([-reach, -reach, reach, reach])
    return squares[overlap_with_union(grown, encoding.token_boxes[own]) == 0]


def draw(vlm: VLM, sample: Sample, markers: Sequence[Marker]) -> list[Encoding]:
    """The prompt of `sample`, then one per marker, drawn on copies of its pictures."""
    first = vlm.encode(sample)
    return [first, *(vlm.encode(_marked(sample, first, marker)) for marker in markers)]


def respond(vlm: VLM, markers: Sequence[Marker], encodings: Sequence[Encoding]) -> Responses:
    """Run what `draw` made as one batch up to the first decoder layer."""
    first = encodings[0]
    run = Run.start(vlm.hf_model, vlm.batch(encodings), use_cache=False)
    with torch.no_grad(), vlm.wrapper.trace(**run.prefill_inputs(), logits_to_keep=1) as tracer:
        entering = vlm.wrapper.model.language_model.layers[0].input.save()
        tracer.stop()
    vectors = entering.float()[:, -len(first) :]
    change = (vectors[1:] - vectors[:1]).norm(dim=-1).cpu().numpy()
    # rows of a batch are computed alike but for rounding, which half precision shows
    return Responses(first, tuple(markers), change, 2e-2 if vlm.dtype in (torch.float16, torch.bfloat16) else 1e-3)


def _marked(sample: Sample, encoding: Encoding, marker: Marker) -> Sample:
    pictures = [picture.copy() for picture in encoding.images]
    for box in marker.boxes:
        pictures[marker.picture].paste(_COLOUR, box)
    return Sample(sample.id, pictures, sample.question, sample.references)


@contextmanager
def silenced(vlm: VLM) -> Iterator[None]:
    """No token of a picture hears of another: every attention module outside the text decoder gives zero. The weights stay as they are.

    Raises
    ------
    ModelError
        The vision tower has no module that is known for attention by the name of its class.
    """
    decoder = "language_model"
    handles: list[Any] = []
    try:
        for name, module in vlm.hf_model.model.named_modules():
            if "attention" in type(module).__name__.lower() and name.split(".")[0] != decoder:
                handles.append(module.register_forward_hook(_zero))
        if not handles:
            raise ModelError(
                "No attention module was found in the vision tower, so its mixing cannot be silenced; use transformers' own tower, whose "
                "attention classes are named so."
            )
        yield
    finally:
        for handle in handles:
            handle.remove()


def _zero(_: Any, __: Any, output: Any) -> Any:
    return (torch.zeros_like(output[0]), *output[1:]) if isinstance(output, tuple) else torch.zeros_like(output)
