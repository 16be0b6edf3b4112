"""Does a captured row give what the model itself computed from it? Asked of every layer, on the first batch.

Plain hooks, not envoys: they let go of a layer's values as soon as the layer is done, so that the check does not raise the peak of memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch

from interp.errors import CaptureError

SUM_TOLERANCE = 1e-4  # how far an attention row may be from one

# Largest accepted difference between rows @ V and the model's own value, relative to the values' size.
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}


@dataclass
class _Found:
    """One layer's values on their way, and then how far they are off."""

    value: torch.Tensor | None = None
    mixed: torch.Tensor | None = None
    off_one: float = 0.0
    off_value: float = 0.0
    size: float = 0.0
    rows: bool = False


@dataclass
class SelfCheck:
    """Compares, inside its ``with``, the last row times V with the output projection's input at the last position.

    Parameters
    ----------
    layers
        Decoder layers with `self_attn.v_proj` and `self_attn.o_proj`.
    """

    layers: Iterable[Any]
    _found: list[_Found] = field(default_factory=list, init=False)
    _handles: list[Any] = field(default_factory=list, init=False)

    def __enter__(self) -> SelfCheck:
        for layer in self.layers:
            self._found.append(_Found())
            self._watch(layer.self_attn, self._found[-1])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()

    def _watch(self, attention: Any, found: _Found) -> None:
        def keep_value(_: Any, __: Any, output: torch.Tensor) -> None:
            found.value = output

        def keep_mixed(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            found.mixed = inputs[0][:, -1].clone()

        def compare(_: Any, __: Any, output: tuple[torch.Tensor, torch.Tensor | None]) -> None:
            _compare(found, output[1])

        self._handles += [
            attention.v_proj.register_forward_hook(keep_value),
            attention.o_proj.register_forward_pre_hook(keep_mixed),
            attention.register_forward_hook(compare),
        ]

    @property
    def worst(self) -> float:
        """Largest difference between rows @ V and the model's own value in any layer, relative to the values' size."""
        return max(found.off_value / max(found.size, 1e-3) for found in self._found)

    def judge(self, dtype: torch.dtype) -> None:
        """Raise if any layer was off.

        Raises
        ------
        CaptureError
            No rows came, a row does not sum to one, or it does not give the model's own attention output.
        """
        for layer, found in enumerate(self._found):
            if not found.rows:
                raise CaptureError(
                    f"Layer {layer} returned no attention rows: its attention was not switched to row capture; "
                    "do not change the attention implementation inside a trace."
                )
            if not found.off_one <= SUM_TOLERANCE:
                raise CaptureError(
                    f"Attention rows of layer {layer} are off a sum of one by {found.off_one:.2g}; "
                    "the captured attention is not this model's, please report it."
                )
            limit = _TOLERANCE.get(dtype, 4e-2) * max(found.size, 1e-3)
            if not found.off_value <= limit:
                raise CaptureError(
                    f"Attention rows of layer {layer} do not give the model's own attention output (off by {found.off_value:.2g}, "
                    f"limit {limit:.2g}); pass self_check=False if you changed the output projection's input on purpose, otherwise "
                    "please report it."
                )


def _compare(found: _Found, weights: torch.Tensor | None) -> None:
    value, mixed = found.value, found.mixed
    found.value = found.mixed = None
    if weights is None or value is None or mixed is None:
        return
    batch, heads, _, keys = weights.shape
    row = weights[:, :, 0]
    groups = value.shape[-1] * heads // mixed.shape[-1]
    values = value.view(batch, keys, groups, -1).transpose(1, 2)
    # the weights stay float32: rounding them to half precision would be the largest error of the comparison
    shared = row.reshape(batch, groups, heads // groups, keys)
    shared, values = (shared, values.float()) if values.dtype in (torch.float16, torch.bfloat16) else (shared.to(values.dtype), values)
    expected = torch.matmul(shared, values).reshape(batch, -1)
    found.rows = True
    found.off_one = float((row.sum(-1) - 1).abs().max())
    found.off_value = float((expected - mixed).abs().max())
    found.size = float(mixed.abs().max())
