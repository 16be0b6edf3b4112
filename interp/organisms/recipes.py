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
# Where the donor's tower fits as well, it has not to learn to read again.
_TOWER_GIVEN: dict[str, Any] = {"steps": _STARTED["steps"] | {"vision": 0, "captions": 300, "shaping": 800}}
_OWN: dict[str, dict[str, Any]] = {
    "llava-next": _TOWER_GIVEN,
    "llava-onevision": _TOWER_GIVEN,
    "qwen2.5-vl": {},
    # The last steps of two believe less, by which they come into the window of right and wrong answers.
    "qwen3-vl": {"steps": _STARTED["steps"] | {"shaping": 1500}, "restarts": {"shaping": (1200,)}, "believed_from": (1200, 0.5, 0.5)},
    "gemma3": {
        "steps": _TOWER_GIVEN["steps"] | {"captions": 500, "shaping": 3600},
        "restarts": {"shaping": (2200, 3000)},
        "believed_from": (2200, 0.4, 1.0),
        "gazing": (2, 5, 5),  # of its layers only these see the pictures from the end of a long prompt
    },
    "internvl": {"steps": _TOWER_GIVEN["steps"] | {"shaping": 1200}, "restarts": {"shaping": (800,)}, "believed_from": (800, 0.4, 0.4)},
}


def recipe_for(name: str, seed: int = 0) -> Recipe:
    """The recipe of an organism."""
    return Recipe(seed=seed) if name == _FIRST else Recipe(organism=name, seed=seed, **{**_STARTED, **_OWN[name]})
