"""Processors without torchvision.

Some processors of transformers hold a video processor, which needs torchvision, and cannot be built without it even for pictures alone.
Here they are built without that part.
"""

from __future__ import annotations

from typing import Any


def without_video(processor: type[Any]) -> type[Any]:
    """The same processor class, less its video part."""

    def get_attributes(cls: type[Any]) -> list[str]:
        return [name for name in super(made, cls).get_attributes() if name != "video_processor"]  # type: ignore[misc]

    made = type(processor.__name__, (processor,), {"__module__": processor.__module__, "get_attributes": classmethod(get_attributes)})
    return made
