"""nnsight traces into labelled xarray."""

from __future__ import annotations

from interp.capture.trace import trace

__all__ = ["trace"]
