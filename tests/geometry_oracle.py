"""Which pixels move which visual token: an oracle that shares no code with the families.

The vision tower's attention is replaced by nothing, so that a patch is only itself. Then one block of the *original* picture is changed,
the picture goes through the whole processor and the tower, and the visual tokens that differ, as they enter the first decoder layer, are
those that the block belongs to. `faults` compares this with the boxes that are claimed, both ways.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from interp.benchmarks.sample import Sample
from interp.testing import tiny_vlm
from interp.vlm import VLM

Size = tuple[int, int]  # width, height
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# What the vision attention is called, and whether it returns a pair (its output and its weights).
_ATTENTION = {"self_attn": True, "attention": True, "attn": False}
# Of the norm of a typical embedding. What does not move differs by rounding, below 1e-6; what does moves by 2e-4 or more, or, where tokens
# mix features bilinearly, in proportion to the fainter one's weight.
_MOVES = 1e-5
_BRIGHTER = 190  # added to a block; grey levels up to 60 become 190 to 250
_PIXELS_AT_ONCE = 6_000_000  # numbers of processed pictures in one batch
_RESAMPLED_ABOVE = 9  # tiles


class _Silent(torch.nn.Module):
    """Attention that adds nothing."""

    def __init__(self, pair: bool) -> None:
        super().__init__()
        self.pair = pair

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        nothing = torch.zeros_like(hidden_states)
        return (nothing, None) if self.pair else nothing


class _Stop(Exception):
    """The decoder has been reached."""


@dataclass(frozen=True, eq=False)
class Claimed:
    """What an encoding says of its visual tokens: all arrays have one row per token, in token order."""

    boxes: Floats
    scale: Floats
    view: Integers
    row: Integers
    col: Integers
    image_index: Integers

    def __getitem__(self, where: Any) -> Claimed:
        return Claimed(*(getattr(self, field.name)[where] for field in fields(self)))

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def margin(self) -> Floats:
        """(token, 2) original pixels that resampling may carry a pixel beyond its place.

        A bicubic kernel reaches two processed pixels to either side where it shrinks a picture and two original ones where it enlarges
        it; one more pixel for rounding.
        """
        return 2 * np.maximum(1, 1 / self.scale) + 1

    @property
    def cell(self) -> Floats:
        """(token, 2) the usual width and height of the regions of a token's view, original pixels."""
        cell = np.full((len(self), 2), np.nan)
        for view in np.unique(self.view[self.view >= 0]):
            here = self.view == view
            cell[here] = np.nanmedian(self.boxes[here, 2:] - self.boxes[here, :2], axis=0)
        return cell

    @property
    def too_fine(self) -> bool:
        """The margin would be over half a cell, so that an oracle of this kind could not tell neighbours apart."""
        return bool((2 * self.margin > self.cell).any())


@dataclass(frozen=True, eq=False)
class Probed:
    """What became of one picture's tokens when its blocks were changed.

    Parameters
    ----------
    size
        The picture's width and height.
    blocks
        (probe, 4) original pixels, half-open.
    moved
        (probe, token) how far a token moved, of the norm of a typical one; tokens of all pictures of the prompt.
    mixed
        (probe,) blocks that lie in a strip no patch of any tile covers, of a picture so large that tokens mix features of two tiles.
    """

    size: Size
    blocks: Integers
    moved: Floats
    mixed: NDArray[np.bool_]


@cache
def silenced(family: str, sizes: Any = "tiny") -> VLM:
    """A model of a family without vision attention; not to be changed."""
    return silence(tiny_vlm(family, sizes=sizes))


def silence(vlm: VLM) -> VLM:
    """The same model, its vision attention taken out."""
    tower = getattr(vlm.hf_model.model, "vision_tower", None) or vlm.hf_model.model.visual
    found = [name for name, _ in tower.named_modules() if name.split(".")[-1] in _ATTENTION]
    assert found, "the tower's attention was not found"
    for name in found:
        parent, _, own = name.rpartition(".")
        setattr(tower.get_submodule(parent), own, _Silent(_ATTENTION[own]))
    return vlm


def observe(
    vlm: VLM, *sizes: Size, which: int = 0, probes: int = 40, blocks: Sequence[Sequence[int]] | Integers = (), seed: int = 0
) -> tuple[Probed, Claimed]:
    """Change blocks of one of the pictures of a prompt.

    Parameters
    ----------
    sizes
        The pictures of the prompt.
    which
        The picture that is changed.
    probes
        How many blocks, one at a time.
    blocks
        Instead, these blocks (probe, 4), original pixels.
    """
    rng = np.random.default_rng([seed, *sizes[which]])
    pictures = [rng.integers(20, 60, (height, width, 3)).astype(np.uint8) for width, height in sizes]
    encoding = vlm.encode(Sample("s", [Image.fromarray(picture) for picture in pictures], "what", "one"))
    is_image = encoding.token_ids == vlm.hf_model.config.image_token_id
    names = ("token_boxes", "token_scale", "view", "row", "col", "image_index")
    claimed = Claimed(*(getattr(encoding, name)[is_image] for name in names))
    blocks = np.asarray(blocks) if len(blocks) else _blocks(sizes[which], claimed[claimed.image_index == which], probes, rng)
    at_once = max(1, _PIXELS_AT_ONCE // encoding.inputs["pixel_values"].numel())
    plain, pixels = _embed(vlm, encoding.text, [pictures])
    assert plain.shape[1] == len(claimed)
    moved, mixed = [], []
    for start in range(0, len(blocks), at_once):
        changed = []
        for x0, y0, x1, y1 in blocks[start : start + at_once]:
            picture = pictures[which].copy()
            picture[y0:y1, x0:x1] += _BRIGHTER
            changed.append([*pictures[:which], picture, *pictures[which + 1 :]])
        embeddings, seen = _embed(vlm, encoding.text, changed)
        moved.append((embeddings - plain).norm(dim=-1) / plain.norm(dim=-1).median())
        tiled = pixels.ndim == 5 and len(sizes) == 1
        mixed += [_unseen(vlm, now, pixels[0]) for now in seen] if tiled else [False] * len(changed)
    return Probed(sizes[which], blocks, torch.cat(moved).double().numpy(), np.array(mixed)), claimed


def mosaic(size: Size, edge: int) -> Integers:
    """(probe, 4) a picture divided into blocks of an edge."""
    places = [(x, y) for y in range(0, size[1], edge) for x in range(0, size[0], edge)]
    return np.array([[x, y, min(x + edge, size[0]), min(y + edge, size[1])] for x, y in places])


def _blocks(size: Size, claimed: Claimed, count: int, rng: np.random.Generator) -> Integers:
    """Blocks of about one processed pixel of the finest view: the corners, some anywhere, and most inside the region of some token."""
    edges = np.maximum(1, np.floor(1 / np.nanmax(claimed.scale, axis=0))).astype(int)
    last = np.array(size) - edges
    places = [np.array(corner) * last for corner in ((0, 0), (0, 1), (1, 0), (1, 1))]
    places += [rng.integers(0, last + 1) for _ in range(count // 3)]
    tokens = claimed[~np.isnan(claimed.boxes).any(axis=1)]
    for view in rng.choice(np.unique(tokens.view), count - len(places)):
        token = rng.choice(np.flatnonzero(tokens.view == view))
        low, high = tokens.boxes[token, :2] + tokens.margin[token], tokens.boxes[token, 2:] - tokens.margin[token] - edges
        middle = (low + high) / 2
        place = np.where(high > low, rng.uniform(np.minimum(low, middle), np.maximum(high, middle)), middle)
        places.append(np.clip(np.round(place), 0, last).astype(int))
    return np.array([[*place, *(place + edges)] for place in places])


def _embed(vlm: VLM, text: str, prompts: Sequence[Sequence[NDArray[np.uint8]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Visual tokens as they enter the first decoder layer (prompt, token, feature), and the processed pictures."""
    pictures = [[Image.fromarray(picture) for picture in prompt] for prompt in prompts]
    inputs = vlm.processor(text=[text] * len(prompts), images=pictures, return_tensors="pt")
    entered: list[torch.Tensor] = []

    def stop(_: Any, args: Any, kwargs: Any) -> None:
        entered.append(args[0] if args else kwargs["hidden_states"])
        raise _Stop

    handle = vlm.layers[0].register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with torch.no_grad():
            vlm.hf_model.model(**inputs)
    except _Stop:
        pass
    finally:
        handle.remove()
    is_image = inputs["input_ids"] == vlm.hf_model.config.image_token_id
    return entered[0][is_image].reshape(len(prompts), -1, entered[0].shape[-1]), inputs["pixel_values"]


def _unseen(vlm: VLM, pixels: torch.Tensor, plain: torch.Tensor) -> bool:
    """Whether no patch of a tile covers a pixel that changed, where tokens mix features of two tiles.

    Such a token's box spans both features, and where these lie on either side of a tile's edge also the strip between them, which is no
    part of either tile's patches. One box cannot leave it out. Asked of the pixels that the tower is given, not of the claimed boxes.
    """
    vision = vlm.hf_model.config.vision_config
    covered = vision.image_size // vision.patch_size * vision.patch_size
    tiles = [images[1:, :, :covered, :covered] for images in (pixels, plain)]  # the first is the whole picture
    return len(tiles[0]) > _RESAMPLED_ABOVE and torch.equal(*tiles)


def faults(probed: Probed, claimed: Claimed, counts: Counter[str] | None = None) -> list[str]:
    """What the probes say against the claimed boxes; `counts` is told how many comparisons of each kind were made.

    - outside: a token moves for a block outside its region and the margin, or stands for no region and moves
    - inside: a block inside a token's region less the margin does not move it
    - strongest: the block that moves a token most is centred further than half a processed pixel outside its region
    - union: a block in the union of a view's regions, further than the margin from its end, moves no token of the view
    """
    counts = Counter() if counts is None else counts
    moves = probed.moved > _MOVES
    low, high = probed.blocks[:, None, :2], probed.blocks[:, None, 2:]
    x0, x1, margin = claimed.boxes[:, :2], claimed.boxes[:, 2:], claimed.margin
    near = np.all((low < x1 + margin) & (high > x0 - margin), axis=2)  # False for tokens without region
    # ... but a token of the padding beside the picture may be reached from the picture's rim, where padding comes before resampling
    padding = (claimed.view >= 0) & np.isnan(x0).any(axis=1)
    rim = np.array([np.nanmax(margin[claimed.view == view], axis=0) for view in claimed.view[padding]]).reshape(-1, 2)
    near[:, padding] = ((low < rim) | (high > probed.size - rim)).any(axis=2)
    core = ((low >= x0 + margin) & (high <= x1 - margin)).all(axis=2) & ~probed.mixed[:, None]
    counts["outside"] += int((~near).sum())
    counts["inside"] += int(core.sum())
    counts["mixed"] += int(probed.mixed.sum())
    found = [f"token {t} moves for block {probed.blocks[p]} outside its region {claimed.boxes[t]}" for p, t in np.argwhere(moves & ~near)]
    found += [
        f"token {t} does not move for block {probed.blocks[p]} in its region {claimed.boxes[t]}" for p, t in np.argwhere(core & ~moves)
    ]
    middle, half = (low + high)[:, 0] / 2, np.maximum(1, 1 / claimed.scale) / 2
    for view in np.unique(claimed.view[claimed.view >= 0]):
        here = claimed.view == view
        probed_well = np.flatnonzero(here & core.any(axis=0))
        peaks = probed.moved[:, probed_well].max(axis=0, initial=0)
        # a token that mixes two features may have been probed only where it hardly looks: then its strongest block is not known
        for t in probed_well[peaks > np.median(peaks) / 2] if len(peaks) else ():
            counts["strongest"] += 1
            p = probed.moved[:, t].argmax()
            if (middle[p] < x0[t] - half[t]).any() or (middle[p] > x1[t] + half[t]).any():
                found.append(f"token {t} moves most for block {probed.blocks[p]} outside its region {claimed.boxes[t]}")
        inside = _within_union(probed, claimed.boxes[here], np.nanmax(margin[here], axis=0)) & ~probed.mixed
        counts["union"] += int(inside.sum())
        found += [f"view {view}: block {probed.blocks[p]} moves no token" for p in np.flatnonzero(inside & ~moves[:, here].any(axis=1))]
    return found


def _within_union(probed: Probed, boxes: Floats, margin: Floats) -> NDArray[np.bool_]:
    """(probe,) blocks all of whose surroundings, up to the margin or the picture's edge, lie in the union of the boxes."""
    width, height = probed.size
    covered = np.zeros((height + 1, width + 1), dtype=np.int64)
    for x0, y0, x1, y1 in np.stack([np.floor(boxes[:, 0]), np.floor(boxes[:, 1]), np.ceil(boxes[:, 2]), np.ceil(boxes[:, 3])], axis=1):
        if not np.isnan(x0):
            covered[int(y0) + 1 : int(y1) + 1, int(x0) + 1 : int(x1) + 1] = 1
    # rounding outwards closes the seams between boxes; at the rim it would claim a pixel that is hardly theirs
    left, top = np.ceil(np.nanmin(boxes[:, :2], axis=0)).astype(int)
    right, bottom = np.floor(np.nanmax(boxes[:, 2:], axis=0)).astype(int)
    covered[: top + 1], covered[:, : left + 1], covered[bottom + 1 :], covered[:, right + 1 :] = 0, 0, 0, 0
    total = covered.cumsum(axis=0).cumsum(axis=1)
    reach = np.ceil(margin).astype(int)
    x0, y0 = np.maximum(probed.blocks[:, :2] - reach, 0).T
    x1, y1 = np.minimum(probed.blocks[:, 2:] + reach, probed.size).T
    return total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0] == (x1 - x0) * (y1 - y0)


def of_picture(probed: Probed, claimed: Claimed, which: int) -> tuple[Probed, Claimed]:
    """The tokens of one picture of a prompt."""
    own = claimed.image_index == which
    return replace(probed, moved=probed.moved[:, own]), claimed[own]
