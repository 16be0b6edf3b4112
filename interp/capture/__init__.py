"""nnsight traces into labelled xarray, in memory or in a crash-safe store.

Names are loaded on first use, so that a stored trace is opened without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.capture.store import open_trace as open_trace
    from interp.capture.tracing import trace as trace

_PUBLIC = {"trace": "interp.capture.tracing", "open_trace": "interp.capture.store"}

__all__ = ["open_trace", "trace"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'interp.capture' has no attribute {name!r}")
