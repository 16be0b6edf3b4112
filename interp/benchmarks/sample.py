"""One question about one or more pictures, with the boxes a person marked.

Boxes are ``(x0, y0, x1, y1)`` in pixels of the *original* picture, x to the right, y down, half-open:
a box that covers a whole ``w x h`` picture is ``(0, 0, w, h)``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from PIL import Image

from interp.errors import ImageError, SampleError

Box = tuple[float, float, float, float]
Role = Literal["evidence", "anchor", "distractor"]


@dataclass(frozen=True, slots=True)
class Sought:
    """A picture file that was in none of the places it may lie in. Opening it says which those are.

    Parameters
    ----------
    name
        What the benchmark calls it.
    places
        Where it was looked for.
    """

    name: str
    places: tuple[Path, ...]

    def __str__(self) -> str:
        return str(self.places[0])


ImageSource = Image.Image | str | Path | Sought

_PICTURE = (Image.Image, str, Path, Sought)
_VIDEO = {".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}
BOX_TOLERANCE = 1.0  # pixels a box may stick out of its picture: annotation files round


@dataclass(frozen=True, slots=True)
class Region:
    """A marked box: where the answer is (`evidence`), what the question names (`anchor`), or another candidate (`distractor`)."""

    box: Box
    role: Role = "evidence"
    text: str | None = None
    image_index: int = 0

    def __post_init__(self) -> None:
        if len(self.box) != 4 or not all(math.isfinite(v) for v in self.box):
            raise SampleError(f"Box {self.box} is not four finite numbers (x0, y0, x1, y1) in pixels; correct the annotation.")
        x0, y0, x1, y1 = (float(v) for v in self.box)
        if x1 <= x0 or y1 <= y0:
            raise SampleError(f"Box {self.box} is empty: x1 must exceed x0 and y1 must exceed y0; correct the annotation.")
        if self.role not in get_args(Role):
            raise SampleError(f"Region role {self.role!r} is unknown; use one of {', '.join(get_args(Role))}.")
        object.__setattr__(self, "box", (x0, y0, x1, y1))


@dataclass(frozen=True)
class Sample:
    """One question with its picture(s), references and regions.

    Parameters
    ----------
    id, image_id
        Names of the sample and of the picture (or scene) it is about. Resampling is over `image_id`.
    images
        A PIL image or path, or a sequence of them. Paths are opened on demand by :meth:`open_images`.
    question
        The bare question; the prompt around it belongs to the model and the method.
    references
        One or more accepted answers.
    regions, boxes
        Marked regions; `boxes` is shorthand for evidence on the first picture.
    knobs
        Whatever the benchmark varied (strings, numbers, booleans), kept beside every result.
    origin
        Where it was read, for what is said of an unusable picture: ``file 'rows.jsonl', line 5``.

    Raises
    ------
    SampleError
        No reference, an empty question, no picture or something else in its place, a video, or a region on a picture that is not there.
    """

    id: str
    image_id: str
    images: tuple[ImageSource, ...] = field(repr=False)
    question: str
    references: tuple[str, ...]
    regions: tuple[Region, ...] = ()
    dataset: str = "custom"
    split: str = ""
    knobs: Mapping[str, Any] = field(default_factory=dict)
    origin: str = field(default="", compare=False, repr=False)

    def __init__(
        self,
        id: str,
        images: ImageSource | Sequence[ImageSource],
        question: str,
        references: str | Sequence[str],
        regions: Sequence[Region] = (),
        *,
        boxes: Sequence[Box] = (),
        image_id: str | None = None,
        dataset: str = "custom",
        split: str = "",
        knobs: Mapping[str, Any] | None = None,
        origin: str = "",
    ) -> None:
        pictures = tuple(images) if isinstance(images, Iterable) and not isinstance(images, _PICTURE) else (images,)
        answers = (references,) if isinstance(references, str) else tuple(references)
        marked = (*regions, *(Region(tuple(box)) for box in boxes))  # type: ignore[arg-type]
        if not answers or not all(isinstance(a, str) and a.strip() for a in answers):
            raise SampleError(f"Sample {id!r} has no reference answer; give at least one non-empty string in `references`.")
        if not question.strip():
            raise SampleError(f"Sample {id!r} has an empty question; give the text to ask.")
        if not pictures:
            raise SampleError(f"Sample {id!r} has no image; give a PIL image or a path.")
        for picture in pictures:
            if not isinstance(picture, _PICTURE):
                raise SampleError(
                    f"Sample {id!r}: a picture is a {type(picture).__name__}, which is not supported; give a PIL image or a path, "
                    "of a video its frames one by one."
                )
            if isinstance(picture, str | Path) and Path(picture).suffix.lower() in _VIDEO:
                raise SampleError(f"Sample {id!r}: {str(picture)!r} is a video, which is not supported; give its frames as pictures.")
        for region in marked:
            if not 0 <= region.image_index < len(pictures):
                raise SampleError(
                    f"Sample {id!r} marks a region on image {region.image_index}, but it has {len(pictures)} image(s); "
                    "correct `image_index`."
                )
        for name, value in {
            "id": id,
            "image_id": image_id if image_id is not None else id,
            "images": pictures,
            "question": question,
            "references": answers,
            "regions": marked,
            "dataset": dataset,
            "split": split,
            "knobs": MappingProxyType(dict(knobs or {})),
            "origin": origin,
        }.items():
            object.__setattr__(self, name, value)

    @property
    def evidence(self) -> tuple[Region, ...]:
        """The regions whose role is `evidence`."""
        return tuple(r for r in self.regions if r.role == "evidence")

    @property
    def image_uris(self) -> tuple[str, ...]:
        """Where each picture can be found again: its path, or ``memory:`` for one that lives in memory."""
        return tuple("memory:" if isinstance(s, Image.Image) else str(s) for s in self.images)

    def open_images(self) -> list[Image.Image]:
        """The pictures as RGB, with every region checked against its picture.

        Raises
        ------
        ImageError
            A file is missing, unreadable or not an image.
        SampleError
            A region lies outside its picture by more than one pixel.
        """
        named = f"Sample {self.id!r}" + (f" ({self.origin})" if self.origin else "")
        pictures = [_open(source, named) for source in self.images]
        for region in self.regions:
            width, height = pictures[region.image_index].size
            x0, y0, x1, y1 = region.box
            if min(x0, y0) < -BOX_TOLERANCE or x1 > width + BOX_TOLERANCE or y1 > height + BOX_TOLERANCE:
                raise SampleError(
                    f"{named}: {region.role} box {region.box} lies outside its {width} x {height} image; "
                    "give boxes in pixels of the original image."
                )
        return pictures


def image_sha256(picture: Image.Image) -> str:
    """SHA-256 of the decoded RGB pixels and the size: the same picture in another file format has the same digest."""
    rgb = picture.convert("RGB")
    return hashlib.sha256(f"{rgb.width}x{rgb.height}".encode() + rgb.tobytes()).hexdigest()


def header_size(path: Path) -> tuple[float, float] | None:
    """Width and height of a picture file, from its header; None where it cannot be read: opening its sample says so by name."""
    try:
        with Image.open(path) as picture:
            return float(picture.width), float(picture.height)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _open(source: ImageSource, named: str) -> Image.Image:
    if isinstance(source, Image.Image):
        return source.convert("RGB")
    if isinstance(source, Sought):
        found = next((place for place in source.places if place.is_file()), None)
        if found is None:
            raise ImageError(_missing(source, named))
        source = found
    path = Path(source)
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except FileNotFoundError as error:
        raise ImageError(f"{named}: image file {str(path)!r} does not exist; check the path or the images folder.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{named}: file {str(path)!r} cannot be read as an image ({error}); replace the file.") from error


def _missing(source: Sought, named: str) -> str:
    places = ", ".join(repr(str(place)) for place in source.places)
    return f"{named}: image {source.name!r} is missing; it was looked for at {places}. Put it there, or correct the images folder."
