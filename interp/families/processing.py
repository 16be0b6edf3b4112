"""How a processor treats a picture: the numbers that geometry needs, from wherever transformers keeps them."""

from __future__ import annotations

from typing import Any

import numpy as np


def setting(processor: Any, name: str) -> Any:
    """A setting of the picture processing.

    What the processor itself says (its ``images_kwargs``) is passed to every call and wins over the image processor's own attribute.
    """
    own = getattr(processor, "images_kwargs", None) or {}
    return own[name] if name in own else getattr(processor.image_processor, name)


def edges(size: Any) -> dict[str, int]:
    """The entries of a transformers size (a mapping, or an object that converts to one) that are set."""
    return {name: int(np.asarray(value)) for name, value in dict(size).items() if value is not None}


def width_height(size: Any) -> tuple[int, int]:
    """Width and height of a size that fixes both, or one edge for both."""
    found = edges(size)
    edge = found.get("shortest_edge")
    return (edge, edge) if edge is not None else (found["width"], found["height"])
