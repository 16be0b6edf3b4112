"""Head ablation: chosen heads give something else than they would, while a context is open.

A head's output is its slice of the output projection's input, before heads are mixed. It is replaced there, through nnsight, in every
forward pass of the model: `generate`, `interp.trace` and `interp.evaluate` all run under it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from interp.decoding import Fed
from interp.errors import InterpError
from interp.interventions.references import HeadReference, Mode, Positions, check_ablation
from interp.vlm import VLM

Head = tuple[int, int]
Where = Literal["last", "generated", "all"] | slice

_NAME = re.compile(r"[Ll](\d+)[Hh](\d+)")


@contextmanager
def ablate_heads(
    vlm: VLM,
    heads: Sequence[Head | str],
    mode: Mode = "zero",
    positions: Where = "last",
    reference: HeadReference | None = None,
) -> Iterator[VLM]:
    """Replace the output of heads while the context is open.

    Parameters
    ----------
    vlm
        The model. Its weights stay as they are, and so does everything outside the context.
    heads
        (layer, head) pairs, or names such as ``L3H7``. With none, nothing is changed.
    mode
        ``zero``; ``mean``, over the reference set; or ``resample``, the output of one of its samples about another picture, drawn by the
        set's seed and the sample's id alone.
    positions
        Where: ``last``, the last prompt position; ``generated``, that and every token of the answer; ``all``, every token of prompt and
        answer; or a slice of the prompt's own positions (``slice(-3, None)``: its last three).
    reference
        The named set that means and donors come from (`head_reference`); for resampling elsewhere than at ``last`` and ``generated`` made
        with ``positions="all"``. See `HeadReference.value` for which position of a donor stands for which.

    Yields
    ------
    VLM
        The same model. Several contexts may be nested; where they meet, the inner one counts. Results made inside carry what was ablated
        as the attribute `edits`, which is part of a store's identity. The self-check of `interp.trace` is left out inside.

    Raises
    ------
    InterpError
        The model has no such head, mode or positions are unknown, or a reference set is missing, of another model, or too small.

    Examples
    --------
    >>> with interp.interventions.ablate_heads(vlm, ["L3H7"]):  # doctest: +SKIP
    ...     ds = interp.trace(vlm, bench)
    """
    chosen = tuple(dict.fromkeys(_head(vlm, head) for head in heads))
    check_ablation(mode, positions if isinstance(positions, str) else "all")
    if mode == "zero":
        reference = None
    elif reference is None:
        raise InterpError(
            f"Ablation mode {mode!r} needs a reference set; pass reference=interp.interventions.head_reference(vlm, samples)."
        )
    else:
        reference.check(vlm)
        if mode == "resample" and positions not in ("last", "generated") and reference.everywhere is None:
            raise InterpError(
                f"Head reference {reference.name!r} holds donors at the last prompt token only; make it with "
                "head_reference(..., positions='all') to resample elsewhere."
            )
    if not chosen:
        yield vlm
        return
    layers: dict[int, list[int]] = {}
    for layer, head in sorted(chosen):
        layers.setdefault(layer, []).append(head)
    sizes = {layer: vlm.layers[layer].self_attn.head_dim for layer in layers}
    with vlm.edited(_Ablation(layers, sizes, mode, positions, reference)):
        yield vlm


@dataclass(frozen=True, eq=False)
class _Ablation:
    """The edit: per layer, the heads; and how wide a head is."""

    layers: dict[int, list[int]]
    sizes: dict[int, int]
    mode: Mode
    positions: Where
    reference: HeadReference | None

    @property
    def description(self) -> str:
        """Heads, mode, positions and reference set."""
        names = " ".join(f"L{layer}H{head}" for layer, heads in self.layers.items() for head in heads)
        p = self.positions
        where = p if isinstance(p, str) else f"positions {p.start}:{p.stop}" + (f":{p.step}" if p.step is not None else "")
        source = "" if self.reference is None else f" from {self.reference.name} ({self.reference.identity['samples']})"
        return f"heads {names} {self.mode} at {where}{source}"

    def __call__(self, index: int, layer: Any, fed: Fed) -> None:
        """Replace this layer's heads, if any are chosen, at the positions that are fed."""
        heads = self.layers.get(index)
        places = self._places(fed)
        if heads is None or not any(places):
            return
        mixed = layer.self_attn.o_proj.input.clone()
        size = self.sizes[index]
        outputs = mixed.view(*mixed.shape[:2], -1, size)
        for row, at in enumerate(places):
            if at:
                outputs[row, torch.tensor(at)[:, None], torch.tensor(heads)] = self._values(index, heads, row, at, fed).to(mixed)
        layer.self_attn.o_proj.input = mixed

    def _places(self, fed: Fed) -> list[list[int]]:
        """Per row of the batch, the chosen of the tokens that are fed."""
        answer = fed.past >= fed.width  # the prompt is fed whole, or was before
        if isinstance(self.positions, slice):
            prompts = [range(start, fed.width) for start in fed.starts]
            return [[] if answer else [*prompt[self.positions]] for prompt in prompts]
        if self.positions == "all":
            return [[*range(0 if answer else start, fed.steps)] for start in fed.starts]
        if answer:
            return [[*range(fed.steps)] if self.positions == "generated" else []] * len(fed.starts)
        return [[fed.width - 1]] * len(fed.starts)

    def _values(self, index: int, heads: list[int], row: int, at: list[int], fed: Fed) -> torch.Tensor:
        """(position, head, feature), where one position may serve all."""
        if self.reference is None:
            return torch.zeros(1, 1, 1)
        kind: Positions = "last" if self.positions in ("last", "generated") else "all"
        donor = self.reference.donor(*fed.asked[row]) if self.mode == "resample" else None
        if donor is None or kind == "last":
            return self.reference.value(index, heads, mode=self.mode, positions=kind, donor=donor).transpose(0, 1)
        # the donor is aligned with the whole prompt, of which `at` are the chosen positions; answer tokens take its last
        length = fed.width - fed.starts[row]
        n_answer = fed.past + fed.steps - fed.width if fed.past else 0
        aligned = self.reference.value(
            index, heads, mode=self.mode, positions="all", donor=donor, n_positions=length + n_answer, n_answer=n_answer
        )
        places = [place + fed.past - fed.starts[row] for place in at]
        return aligned.transpose(0, 1)[places]


def _head(vlm: VLM, head: Head | str) -> Head:
    if isinstance(head, str):
        found = _NAME.fullmatch(head.strip())
        if found is None:
            raise InterpError(f"Head {head!r} is not understood; write it as L3H7, or as the pair (3, 7).")
        layer, number = int(found[1]), int(found[2])
    else:
        layer, number = (int(part) for part in head)
    if not (0 <= layer < vlm.n_layers and 0 <= number < vlm.n_heads):
        raise InterpError(
            f"Head L{layer}H{number} does not exist in {vlm.name!r}; it has layers 0 to {vlm.n_layers - 1} and heads 0 to "
            f"{vlm.n_heads - 1}."
        )
    return layer, number
