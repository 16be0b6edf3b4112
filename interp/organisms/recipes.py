"""How each organism is trained: one recipe a name."""

from __future__ import annotations

from typing import Any

from interp.organisms.training import Recipe

_FIRST = "llava"  # trained from nothing; the others begin with its decoder
_STARTED: dict[str, Any] = {
    "start": _FIRST,
    "steps": {"vision": 3000, "captions": 300, "questions": 0, "settling": 0, "shaping": 1200},
    "rates": {
        "vision": (2e-3, 2e-3),
        "captions": (1e-3, 5e-4),
        "questions": (1e-3, 5e-4),
        "settling": (1e-3, 5e-4),
        "shaping": (1e-3, 5e-4),
    },
    "labelled": 0.04,
}
# Where the tower fits as well, it has not to learn to read again.
_TOWER_GIVEN: dict[str, Any] = {"steps": _STARTED["steps"] | {"vision": 0, "captions": 300, "shaping": 800}}
_OWN: dict[str, dict[str, Any]] = {
    "llava-next": _TOWER_GIVEN,
    "llava-onevision": {"steps": _TOWER_GIVEN["steps"] | {"captions": 800}},
    "qwen2.5-vl": {},
    "qwen3-vl": {},
    # Its tower, which knows no distances, begins to read later. Of its layers only these see the pictures from the end of a long prompt.
    "gemma3": {"steps": _STARTED["steps"] | {"vision": 5000}, "gazing": (2, 5, 5)},
    # Its tower takes longer still: tiles are alone with their patches, and a fifth of the tokens are the thumbnail's.
    "internvl": {"steps": _STARTED["steps"] | {"vision": 8000}},
}


def recipe_for(name: str, seed: int = 0) -> Recipe:
    """The recipe of an organism."""
    return Recipe(seed=seed) if name == _FIRST else Recipe(organism=name, seed=seed, **{**_STARTED, **_OWN[name]})
