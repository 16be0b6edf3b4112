"""Which methods a model cannot be judged by: those that ask in a form it was never trained for.

The small models that ship with the package, and others trained like them, list their forms on their model card. A wording they never saw
would be scored as if the method had failed. A checkpoint without such a card counts as trained for every form.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from interp.methods.method import Method
from interp.vlm import VLM

TWO_IMAGES = "two images"
_CARD = "card.json"
_SHAPES = {"bare question": "question", "captions": "describe"}  # what a card calls a form, where it differs


def trained_forms(vlm: VLM) -> frozenset[str] | None:
    """The forms on the model's card: wordings of `interp.prompts.PROMPTS`, ``two images``, ``two turns``. None where no card lists any."""
    folder = getattr(vlm.hf_model.config, "_name_or_path", "")
    if not folder:
        return None
    try:
        mixture = json.loads((Path(folder) / _CARD).read_text(encoding="utf-8"))["recipe"]["mixture"]
        shares: dict[str, float] = {**mixture["shapes"], **mixture["forms"]}
        return frozenset(_SHAPES.get(name, name) for name, share in shares.items() if share > 0)
    except (OSError, ValueError, LookupError, TypeError):
        return None  # no card, or a file of somebody else's by that name


def not_applicable(vlm: VLM, methods: Sequence[Method], most_pictures: int) -> dict[str, str]:
    """Methods that cannot be judged by this model's answers, and why, by name.

    Parameters
    ----------
    most_pictures
        Of any sample that is asked about.
    """
    trained = trained_forms(vlm)
    if trained is None:
        return {}
    reasons = {}
    for method in methods:
        lacking = [form for form in method.forms if form not in trained]
        if lacking:
            reasons[method.name] = f"the model's card lists no training on: {', '.join(lacking)}"
        elif TWO_IMAGES in method.forms and most_pictures > 1:
            reasons[method.name] = f"it would show {2 * most_pictures} pictures at once; the model's card lists two"
    return reasons
