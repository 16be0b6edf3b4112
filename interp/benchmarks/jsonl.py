"""`jsonl`: your own questions about your own pictures, one JSON object a line.

A row, here broken into lines, of which only `id`, a picture, `question` and `references` are needed::

    {"id": "receipt-7", "image": "receipts/7.png", "question": "What is the total?", "references": ["9.30", "9.3"],
     "boxes": [[412, 730, 498, 753]]}

===============  ======================================================================================================================
`id`             text or whole number, every row's own
`image`          path of the picture, from the file's folder (or from `images=`), or absolute; `images`, a list of paths, for several
`question`       the bare question; the wording around it belongs to the model and the method
`references`     an accepted answer or a list of them, as text
`boxes`          where the answer is: boxes on the first picture, short for regions of role `evidence`
`regions`        objects with `box`, and if wanted `role` (evidence, anchor or distractor), `text`, `image_index` (from 0)
`box_format`     ``"xyxy"`` (two corners, the default) or ``"xywh"`` (corner, width, height); of all boxes of the row
`normalised`     true where boxes are shares of width and height; by default they are pixels of the original picture
`image_id`       what the row is about, if that is not its pictures' paths: rows of one `image_id` are resampled together
`split`          ``"profile"``, ``"test"``, ... as you like; layers should be profiled on other pictures than those judged
`dataset`        by default the file's name
`knobs`          an object of texts, numbers, true and false: what you varied, kept beside every result as ``knob_<name>``
===============  ======================================================================================================================

Boxes are half-open, x to the right and y down, as in :mod:`interp.benchmarks.sample`.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath

from pydantic import ValidationError

from interp.benchmarks.benchmark import Benchmark
from interp.benchmarks.jsonl_rows import Row, complaint_about
from interp.benchmarks.sample import BOX_TOLERANCE, Box, Region, Sample, Sought, header_size
from interp.errors import BenchmarkError, SampleError

_log = logging.getLogger(__name__)

_SKIP = "or leave such rows out (and have them counted) with skip_bad=True, --skip-bad on the command line"


@dataclass(slots=True)
class Report:
    """What reading the file met, over the rows that were read (all of them, unless `limit` ended it)."""

    n_rows: int = 0
    n_other_split: int = 0  # left out: another split was asked for
    n_bad_rows: int = 0  # left out with `skip_bad`
    n_without_evidence: int = 0  # kept, with no region of that role
    n_clipped_boxes: int = 0  # stuck out of the picture by no more than rounding does, and were cut
    n_unchecked_boxes: int = 0  # the picture's size is unknown: its file is not there, or cannot be read
    n_missing_images: int = 0  # pictures that are not there (opening one raises ImageError)


def load(
    path: str | Path,
    images: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    skip_bad: bool = False,
) -> Benchmark:
    """The samples of a JSON Lines file (UTF-8; the module says which fields a row has).

    Parameters
    ----------
    path
        The file.
    images
        The folder that paths of pictures begin at; what is not there is looked for in the file's own folder, which is also the default.
        A picture is opened on demand: with pictures missing the rows load all the same, and opening a missing one says where it was
        looked for. Only boxes given as shares need its size at once.
    split
        Only rows of this `split`; None for all rows.
    limit
        Read no further than so many samples.
    skip_bad
        Leave out, count, and log (at level INFO) what a row has wrong with it, instead of refusing.

    Returns
    -------
    Benchmark
        Named ``jsonl``; its `report` holds the counts of :class:`Report`. Boxes are pixels of the original picture. Rows about the same
        pictures share an `image_id`, unless they say otherwise.

    Raises
    ------
    BenchmarkError
        The file or the folder is missing, two rows have one `id` (`skip_bad` or not: which is meant cannot be known), or no row is left.
    SampleError
        A row is no JSON object, or a field is unknown, missing or unusable, or a box is empty, beyond its picture, or of another
        `box_format` than the row says (unless `skip_bad`). Names the file, the line and the field.
    """
    source = Path(path)
    if not source.is_file():
        raise BenchmarkError(f"JSON Lines file {str(source)!r} does not exist; give the path of a file with one JSON object a line.")
    if images is not None and not Path(images).is_dir():
        raise BenchmarkError(f"Images folder {str(images)!r} does not exist; give the folder that the rows' paths begin at.")
    reading = _Reading(source, [Path(images), source.parent] if images is not None else [source.parent])
    samples: list[Sample] = []
    with source.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            text = line.removeprefix(b"\xef\xbb\xbf").strip()
            if not text:
                continue
            reading.report.n_rows += 1
            try:
                sample = reading.sample(number, text, split)
            except SampleError as error:
                if not skip_bad:
                    raise
                reading.report.n_bad_rows += 1
                _log.info("left out: %s", error)
                continue
            if sample is not None:
                samples.append(sample)
                if len(samples) == limit:
                    break
    if not samples:
        raise BenchmarkError(f"JSON Lines file {str(source)!r} holds {reading.held(split)}; give another file or split.")
    return Benchmark("jsonl", split or "", samples, asdict(reading.report))


@dataclass
class _Reading:
    """One file being read."""

    source: Path
    folders: list[Path]
    report: Report = field(default_factory=Report)
    ids: dict[str, int] = field(default_factory=dict)
    splits: set[str] = field(default_factory=set)

    def sample(self, number: int, text: bytes, split: str | None) -> Sample | None:
        """The sample of a line; None where it is of another split."""
        try:
            row = Row.model_validate_json(text)
        except ValidationError as error:
            raise self.bad(number, complaint_about(error.errors())) from None
        if (row.image is None) == (row.images is None):
            given = "both `image` and `images`" if row.images is not None else "neither `image` nor `images`"
            raise self.bad(number, f"the row has {given}; give one of them")
        if row.id in self.ids:
            raise BenchmarkError(
                f"File {str(self.source)!r}, line {number}, field 'id': {row.id!r} is also the id of line {self.ids[row.id]}; "
                "give every row an id of its own."
            )
        self.ids[row.id] = number
        self.splits.add(row.split or "")
        if split is not None and row.split != split:
            self.report.n_other_split += 1
            return None
        places = [tuple(folder / name for folder in self.folders) for name in row.pictures]
        found = [next((place for place in several if place.is_file()), None) for several in places]
        missing = [Sought(name, several) for name, several in zip(row.pictures, places, strict=True)]
        regions, clipped, unchecked = self.regions(number, row, found)
        try:
            made = Sample(
                row.id,
                [path or sought for path, sought in zip(found, missing, strict=True)],
                row.question,
                row.references,
                regions,
                image_id=row.image_id or " + ".join(PurePath(name).as_posix() for name in row.pictures),
                dataset=row.dataset or self.source.stem,
                split=row.split or "",
                knobs=row.knobs,
                origin=f"file {str(self.source)!r}, line {number}",
            )
        except SampleError as error:
            raise self.bad(number, str(error).removesuffix(".")) from None
        self.report.n_clipped_boxes += clipped
        self.report.n_unchecked_boxes += unchecked
        self.report.n_missing_images += found.count(None)
        self.report.n_without_evidence += not made.evidence
        return made

    def regions(self, number: int, row: Row, found: list[Path | None]) -> tuple[list[Region], int, int]:
        """The row's regions in pixels, and how many were clipped and could not be checked."""
        regions: list[Region] = []
        clipped = unchecked = 0
        sizes: dict[int, tuple[float, float] | None] = {}
        for name, marked in row.marked():
            index = marked.image_index
            if index >= len(found):
                said = f"field '{name.removesuffix('box')}image_index' is {index}, but the row has {len(found)} picture(s)"
                raise self.bad(number, f"{said}; count pictures from 0")
            if index not in sizes:
                path = found[index]
                sizes[index] = header_size(path) if path is not None else None
            size = sizes[index]
            if size is None and row.normalised:
                looked = ", ".join(repr(str(folder / row.pictures[index])) for folder in self.folders)
                problem = f"field '{name}' is in shares of picture {row.pictures[index]!r}, of which no readable file is at {looked}"
                raise self.bad(number, f"{problem}; put it there, correct the images folder, or give boxes in pixels")
            box = _in_pixels(marked.box, row, size)
            if complaint := _box_complaint(box, row, size):
                raise self.bad(number, f"field '{name}' is {marked.box}, {complaint}")
            inside = box if size is None else (max(box[0], 0.0), max(box[1], 0.0), min(box[2], size[0]), min(box[3], size[1]))
            clipped += inside != box
            unchecked += size is None
            regions.append(Region(inside, marked.role, marked.text, index))
        return regions, clipped, unchecked

    def bad(self, number: int, complaint: str) -> SampleError:
        """The refusal of a line, in one sentence."""
        return SampleError(f"File {str(self.source)!r}, line {number}: {complaint}; {_SKIP}.")

    def held(self, split: str | None) -> str:
        """What a file without a usable row holds."""
        if not self.report.n_rows:
            return "no row"
        bad = f", and {self.report.n_bad_rows} unusable ones that were left out" if self.report.n_bad_rows else ""
        held = ", ".join(sorted(repr(name) if name else "rows without a split" for name in self.splits)) or "none"
        return f"no usable row of split {split!r} (it holds {held}{bad})" if split is not None else f"no usable row{bad}"


def _in_pixels(given: list[float], row: Row, size: tuple[float, float] | None) -> Box:
    x0, y0, x1, y1 = given
    if row.box_format == "xywh":
        x1, y1 = x0 + x1, y0 + y1
    if row.normalised and size is not None:
        x0, y0, x1, y1 = x0 * size[0], y0 * size[1], x1 * size[0], y1 * size[1]
    return x0, y0, x1, y1


def _box_complaint(box: Box, row: Row, size: tuple[float, float] | None) -> str | None:
    """What is wrong with a box in pixels, with the remedy; None where nothing is."""
    x0, y0, x1, y1 = box
    if x1 <= x0 or y1 <= y0:
        sides = "give a width and a height above 0" if row.box_format == "xywh" else "give two corners, x1 above x0 and y1 above y0"
        return f"which has no area as {row.box_format}; {sides}, or correct `box_format`"
    if size is not None and (min(x0, y0) < -BOX_TOLERANCE or x1 > size[0] + BOX_TOLERANCE or y1 > size[1] + BOX_TOLERANCE):
        where = f"beyond its {size[0]:g} x {size[1]:g} picture as {row.box_format}, normalised {str(row.normalised).lower()}"
        return f"which reaches {where}; correct the box, `box_format` or `normalised`"
    if not row.normalised and max(x1, y1) <= 1:  # as pixels it would be a corner of the first one
        return 'which as pixels is within the first one; say "normalised": true where boxes are shares'
    return None
