"""What heads write, beside where they look: TransformerLens on the live model. Names are loaded on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.circuits.attribution import attribute as attribute
    from interp.circuits.bridging import bridge as bridge
    from interp.circuits.logit_lens import lens as lens
    from interp.circuits.shares import contributions as contributions
    from interp.circuits.sources import write_by_part as write_by_part
    from interp.circuits.sources import write_grounding as write_grounding

_PUBLIC = {
    "attribute": "interp.circuits.attribution",
    "bridge": "interp.circuits.bridging",
    "contributions": "interp.circuits.shares",
    "lens": "interp.circuits.logit_lens",
    "write_by_part": "interp.circuits.sources",
    "write_grounding": "interp.circuits.sources",
}

__all__ = ["attribute", "bridge", "contributions", "lens", "write_by_part", "write_grounding"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'interp.circuits' has no attribute {name!r}")
