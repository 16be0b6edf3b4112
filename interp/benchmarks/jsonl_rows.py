"""A row of your own data: its fields, read strictly, and what is wrong with them in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, StringConstraints
from pydantic_core import ErrorDetails, PydanticCustomError

from interp.benchmarks.sample import Role

_REMEDIES = {
    "id": "give a text or a whole number, another one in every row",
    "image": "give the path of a picture, or a list of paths as `images`",
    "images": "give a list of paths, or one path as `image`",
    "question": "give the text to ask",
    "references": "give an accepted answer, or a list of them, as text",
    "boxes": "give a list of boxes of four finite numbers each",
    "regions": "give a list of objects with box (four finite numbers), role (evidence, anchor, distractor), text, image_index (from 0)",
    "box_format": 'give "xyxy" (two corners) or "xywh" (corner, width, height)',
    "normalised": "give true where boxes are shares of the picture's width and height, false where they are pixels",
    "image_id": "give a text, or leave it out",
    "split": "give a text, or leave it out",
    "dataset": "give a text, or leave it out",
    "knobs": "give an object of texts, finite numbers, true and false, whose names are not empty and hold no '/'",
}


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _scalars(knobs: dict[str, Any]) -> dict[str, Any]:
    for name, value in knobs.items():
        # a name becomes the name of an array on disk, where a slash would make a folder
        if not name.strip() or "/" in name or not isinstance(value, str | bool | int | float) or not math.isfinite(_number(value)):
            raise PydanticCustomError("knob", "not kept beside a result")
    return knobs


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, int | float) else 0.0
    except OverflowError:
        return math.inf


_Text = Annotated[str, StringConstraints(pattern=r"\S")]
_Name = Annotated[_Text, BeforeValidator(_as_text)]
_Corners = Annotated[list[FiniteFloat], Field(min_length=4, max_length=4)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Marked(_Strict):
    """A region as the row writes it."""

    box: _Corners
    role: Role = "evidence"
    text: str | None = None
    image_index: Annotated[int, Field(ge=0)] = 0


class Row(_Strict):
    """A line of the file; :mod:`interp.benchmarks.jsonl` says what the fields mean."""

    id: _Name
    image: _Text | None = None
    images: Annotated[list[_Text], Field(min_length=1)] | None = None
    question: _Text
    references: Annotated[list[_Text], Field(min_length=1), BeforeValidator(_listed)]
    boxes: list[_Corners] = []
    regions: list[Marked] = []
    box_format: Literal["xyxy", "xywh"] = "xyxy"
    normalised: bool = False
    image_id: _Name | None = None
    split: _Text | None = None
    dataset: _Text | None = None
    knobs: Annotated[dict[str, Any], AfterValidator(_scalars)] = {}

    @property
    def pictures(self) -> list[str]:
        """The paths, of one picture or several."""
        return self.images if self.images is not None else [self.image] if self.image is not None else []

    def marked(self) -> Iterator[tuple[str, Marked]]:
        """Every region, with the name of its field."""
        for number, box in enumerate(self.boxes):
            yield f"boxes[{number}]", Marked(box=box)
        for number, region in enumerate(self.regions):
            yield f"regions[{number}].box", region


def complaint_about(errors: list[ErrorDetails]) -> str:
    """What is wrong with a row's fields, and the remedy for the first."""
    # a misspelt field explains the one that is then missing
    first = next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if not first["loc"]:  # not JSON, or JSON of another kind
        return f"the line is not a JSON object ({first['msg']}){more}; write each row as one object on one line, in UTF-8"
    top = str(first["loc"][0])
    name = top + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"][1:])
    if first["type"] == "extra_forbidden":
        known = Row if len(first["loc"]) == 1 else Marked
        return f"field '{name}' is unknown{more}; use {', '.join(known.model_fields)}"
    given = "missing" if first["type"] == "missing" else f"{_shown(first['input'])}, which cannot be used"
    return f"field '{name}' is {given}{more}; {_REMEDIES[top]}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
