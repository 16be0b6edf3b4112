"""Every single-head replacement of a prompt, exactly, in one pass over the layers.

At each layer one branch per head splits off the unaltered row, so the batch grows like a staircase: the layers below a branch are never
run again. A branch holds only the last prompt token and the answer tokens fed after it; all branches share the prompt's keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from interp.errors import CaptureError
from interp.interventions.branches import Edit, Layer

Values = Callable[[int], torch.Tensor]

_MOST = 1 << 25  # numbers that the largest array of a chunk may have


@torch.no_grad()
def staircase(layers: Sequence[Any], run: Sequence[Layer], values: Values, steps: int, chunk: int | None = None) -> torch.Tensor:
    """Outputs of the last layer with each head replaced at the last prompt token, and at answer tokens if wanted.

    Parameters
    ----------
    layers
        The decoder layers.
    run
        What was recorded of them.
    values
        Of a layer: (head, step or 1, feature), what each head gives instead of its output (the input of the output projection).
    steps
        At how many of the branches' steps, from the last prompt token on.
    chunk
        Branches per call of a layer.

    Returns
    -------
    (1 + layer * head, step, feature): the unaltered row, then the heads of layer 0, of layer 1, ...

    Raises
    ------
    CaptureError
        A layer does not attend through the registered implementation.
    """
    rows = run[0].hidden
    for place, (layer, recorded) in enumerate(zip(layers, run, strict=True)):
        replaced = values(place)
        first, heads = len(rows), len(replaced)
        rows = torch.cat([rows, rows[:1].expand(heads, -1, -1)])
        size = chunk or _chunk(rows.shape[1] * heads * (recorded.keys.shape[1] + rows.shape[1]))
        for start in range(0, len(rows), size):
            some = slice(start, min(start + size, len(rows)))
            rows[some] = _through(layer, place, recorded, rows[some], _edit(replaced, some, first, steps))
        if recorded.added is not None:
            rows += recorded.added
    return rows


@torch.no_grad()
def restarts(layers: Sequence[Any], run: Sequence[Layer], values: Values, keep: int, chunk: int | None = None) -> torch.Tensor:
    """As `staircase`, with each head replaced at all positions: every layer's branches restart whole from what entered it.

    Parameters
    ----------
    layers, run, values, chunk
        As there; the run must be recorded whole, and `values` are of every position (or one for all).
    keep
        How many steps are returned, the last ones.
    """
    ends = [_upward(layers, run, 0, None, 1)[:, -keep:]]
    for place, recorded in enumerate(run):
        replaced = values(place)
        tokens = recorded.hidden.shape[1]
        size = chunk or _chunk(tokens * max(8 * recorded.hidden.shape[2], replaced.shape[0] * replaced.shape[2]))
        for start in range(0, len(replaced), size):
            some = replaced[start : start + size]
            at = torch.arange(len(some), device=replaced.device)
            ends.append(_upward(layers, run, place, Edit(at, at + start, some, tokens), len(some))[:, -keep:].clone())
    return torch.cat(ends)


def _upward(layers: Sequence[Any], run: Sequence[Layer], start: int, edit: Edit | None, n: int) -> torch.Tensor:
    """`n` copies of a run from layer `start` to the end, with an edit in that layer."""
    rows = run[start].hidden.expand(n, -1, -1)
    for place in range(start, len(run)):
        rows = _through(layers[place], place, run[place], rows, edit if place == start else None, whole=True)
        if (added := run[place].added) is not None:
            rows = rows + added
    return rows


def _edit(replaced: torch.Tensor, some: slice, first: int, steps: int) -> Edit | None:
    """The part of a layer's replacements that is in a chunk of rows; row `first` is head 0's."""
    heads = torch.arange(max(some.start - first, 0), max(some.stop - first, 0), device=replaced.device)
    return Edit(heads + first - some.start, heads, replaced[heads], steps) if len(heads) else None


def _through(layer: Any, place: int, recorded: Layer, rows: torch.Tensor, edit: Edit | None, whole: bool = False) -> torch.Tensor:
    arguments = recorded.arguments(edit, whole)
    output = layer(rows, **arguments)
    if not arguments["branch"].used:
        raise CaptureError(
            f"Layer {place} does not attend through the registered implementation, so no head can be replaced in it; "
            "check that nothing else switches the model's attention at the same time."
        )
    return output


def _chunk(per_row: int) -> int:
    return max(_MOST // per_row, 1)
