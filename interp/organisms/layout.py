"""Where a processor puts pictures among a prompt's tokens: all that training needs to know of an architecture.

Ids, regions and inputs come from the processor itself and from the family's geometry, so that what is trained is what is asked later.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from interp.benchmarks.sample import Sample
from interp.encoding import encode
from interp.families import family_for
from interp.prompts import user_turn

Size = tuple[int, int]
_PER_TOKEN = ("input_ids", "attention_mask")
_PROBES: tuple[Size, ...] = ((160, 160), (240, 160), (160, 240), (160, 208))  # square, wide and tall pictures


class Layout:
    """A processor's layout of pictures, remembered by their sizes."""

    def __init__(self, processor: Any, config: Any) -> None:
        self.processor = processor
        self.config = config
        self.image_token_id: int = config.image_token_id
        self.ids = lru_cache(maxsize=8192)(self._ids)
        self.places = lru_cache(maxsize=512)(self._places)
        # What else has an entry a token says which tokens are of pictures.
        self.types = tuple(name for name in self._call("x", (_PROBES[0],)) if name.endswith("token_type_ids"))
        wide, _ = self._regions((_PROBES[1],))
        self.crops = bool(np.nanmin(wide[:, 0]) > 1)  # the processor shows the central square only
        self.varies = len({len(self.places((size,))[0]) for size in _PROBES}) > 1

    @property
    def own_size(self) -> Size | None:
        """(width, height) of every processed picture, where that is fixed."""
        if self.varies:
            return None
        images = self.processor.image_processor
        edges = images.crop_size if self.crops else images.size
        return int(edges["width"]), int(edges["height"])

    def inputs(self, groups: Sequence[Sequence[Image.Image]]) -> dict[str, torch.Tensor]:
        """The model's inputs of the pictures of several prompts, without what has an entry a token."""
        text = self.render("x", len(groups[0]), "image-first")
        outputs = self.processor(text=[text] * len(groups), images=[list(g) for g in groups], padding=True, return_tensors="pt")
        return {name: value for name, value in outputs.items() if name not in (*_PER_TOKEN, *self.types)}

    def kinds(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """The token types a processor would give with these ids (row, t)."""
        return {name: (ids == self.image_token_id).long() for name in self.types}

    def prefix(self, sizes: tuple[Size, ...]) -> list[int]:
        """What precedes the text when pictures of these sizes come first: up to and with the last visual token."""
        ids = self.ids("x", sizes, "image-first")
        return list(ids[: _last(ids, self.image_token_id) + 1])

    def tail(self, text: str, n_images: int) -> list[int]:
        """What follows the last visual token when pictures come first, whatever their size."""
        ids = self.ids(text, (_PROBES[0],) * n_images, "image-first")
        return list(ids[_last(ids, self.image_token_id) + 1 :])

    def render(self, text: str, n_images: int, order: Any) -> str:
        """The chat template's text for one user turn."""
        turn = user_turn(text, n_images, order)
        return str(self.processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True))

    def _ids(self, text: str, sizes: tuple[Size, ...], order: Any) -> tuple[int, ...]:
        """The processor's ids. It is asked once for every text; pictures of other sizes have runs of visual tokens as long as theirs."""
        usual = (_PROBES[0],) * len(sizes)
        if sizes == usual:
            return tuple(self._call(text, sizes, order)["input_ids"][0].tolist())
        ids = self.ids(text, usual, order)
        visual = [token == self.image_token_id for token in ids]
        starts = [k for k, here in enumerate(visual) if here and not visual[k - 1]]
        counts = np.bincount(self.places(sizes)[1], minlength=len(sizes)).tolist()
        if len(starts) < len(sizes):  # pictures with nothing between them are one run
            counts = [sum(counts)]
        out: list[int] = []
        for k, token in enumerate(ids):
            if k in starts:
                out += [self.image_token_id] * counts[starts.index(k)]
            if not visual[k]:
                out.append(token)
        return tuple(out)

    def _call(self, text: str, sizes: tuple[Size, ...], order: Any = "image-first") -> Any:
        rendered = self.render(text, len(sizes), order)
        if not sizes:
            return {"input_ids": torch.tensor([self.processor.tokenizer(rendered).input_ids])}
        return self.processor(text=[rendered], images=[[_blank(size) for size in sizes]], return_tensors="pt")

    def _places(self, sizes: tuple[Size, ...]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Regions (visual token, 4) in pixels, NaN for none, and the picture of each (visual token,), pictures first.

        Of a processor that crops, the central square in whole pixels, within a pixel of the true one: what the first organism was trained
        on, whose log a retraining must repeat.
        """
        boxes, index = self._regions(sizes)
        return (_centred(sizes, len(index) // len(sizes)), index) if self.crops else (boxes, index)

    def _regions(self, sizes: tuple[Size, ...]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The same by the family's geometry."""
        sample = Sample("blank", [_blank(size) for size in sizes], "x", "x")
        encoded = encode(self.processor, self.config, family_for(self.config), sample, "question", "image-first")
        visual = encoded.token_ids == self.image_token_id
        return encoded.token_boxes[visual], encoded.image_index[visual]

    def coverage(self, size: Size, box: Sequence[float]) -> NDArray[np.float64]:
        """Share of each visual token's region (token,) that a box of a picture of this size covers; NaN where it has none."""
        x0, y0, x1, y1 = self.places((size,))[0].T
        width = np.minimum(x1, box[2]) - np.maximum(x0, box[0])
        height = np.minimum(y1, box[3]) - np.maximum(y0, box[1])
        return np.clip(width, 0, None) * np.clip(height, 0, None) / ((x1 - x0) * (y1 - y0))


def _centred(sizes: tuple[Size, ...], tokens: int) -> NDArray[np.float64]:
    """A square grid of so many `tokens` regions (visual token, 4) over the central square of each picture, in whole pixels."""
    grid, boxes = round(tokens**0.5), []
    for width, height in sizes:
        short = min(width, height)
        at = np.arange(grid) * (short / grid)
        x, y = np.meshgrid(at + (width - short) // 2, at + (height - short) // 2)
        boxes.append(np.stack([x, y, x + short / grid, y + short / grid], -1).reshape(-1, 4))
    return np.concatenate(boxes)


@lru_cache(maxsize=64)
def _blank(size: Size) -> Image.Image:
    return Image.new("RGB", size)


def _last(ids: Sequence[int], token: int) -> int:
    return len(ids) - 1 - list(ids)[::-1].index(token)
