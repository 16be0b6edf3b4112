"""Ways to answer a question, side by side. Names are loaded on first use, so that answers are opened without a model's libraries."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.methods.batch import Batch as Batch
    from interp.methods.batch import Reply as Reply
    from interp.methods.evaluation import evaluate as evaluate
    from interp.methods.method import Method as Method
    from interp.methods.registry import names as names
    from interp.methods.registry import register as register
    from interp.methods.stored import open_answers as open_answers
    from interp.methods.token_maps import attribution_maps as attribution_maps
    from interp.methods.trained import trained_forms as trained_forms

_PUBLIC = {
    "Batch": "interp.methods.batch",
    "Method": "interp.methods.method",
    "Reply": "interp.methods.batch",
    "attribution_maps": "interp.methods.token_maps",
    "evaluate": "interp.methods.evaluation",
    "names": "interp.methods.registry",
    "open_answers": "interp.methods.stored",
    "register": "interp.methods.registry",
    "trained_forms": "interp.methods.trained",
}

__all__ = ["Batch", "Method", "Reply", "attribution_maps", "evaluate", "names", "open_answers", "register", "trained_forms"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'interp.methods' has no attribute {name!r}")
