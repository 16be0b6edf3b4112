"""Visual-CoT: real questions on real pictures, with the boxes people marked (arXiv 2403.16999)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from interp.benchmarks.benchmark import Benchmark
from interp.benchmarks.sample import Box, Region, Sample, Sought, header_size
from interp.benchmarks.visual_cot_forms import Row, Size, read_rows
from interp.errors import BenchmarkError, SampleError

# The published benchmark labels its rows "val", and results on it are what papers report as test.
_SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "val"}

_REMEDY = "correct the file, or leave such rows out (and have them counted) with skip_bad=True, --skip-bad on the command line"


@dataclass(slots=True)
class Report:
    """What reading the annotations met, over the rows that were read (all of them, unless `limit` ended it)."""

    n_rows: int = 0
    n_other_split: int = 0  # left out: another split was asked for
    n_without_text: int = 0  # left out: no question or no answer
    n_without_evidence: int = 0  # kept, with no region left
    n_degenerate_boxes: int = 0  # dropped: no area
    n_outside_boxes: int = 0  # dropped: wholly beside the picture
    n_clipped_boxes: int = 0  # cut at the picture's edge
    n_unchecked_boxes: int = 0  # the picture's size is unknown: neither annotated, nor is the file there
    n_missing_images: int = 0  # samples whose picture is not under `images` (opening one raises ImageError)
    n_unused_detections: int = 0  # detection rows that no benchmark row asks for


def load(
    annotations: str | Path | Sequence[str | Path],
    images: str | Path,
    split: str = "val",
    limit: int | None = None,
    skip_bad: bool = False,
) -> Benchmark:
    """The samples of one or more Visual-CoT annotation files.

    Parameters
    ----------
    annotations
        One file or several, of any of the three forms (see :mod:`interp.benchmarks.visual_cot_forms`). A detection file refines
        the boxes of the benchmark files given with it.
    images
        The folder that holds ``<dataset>/<file>`` (the published archive), or one data set's pictures. Opened only on demand: with
        pictures missing the annotations load all the same, and opening a missing one says where it was looked for.
    split
        ``train``, or ``val`` (also called ``validation`` or ``test``: the published benchmark).
    limit
        Read no further than so many samples.
    skip_bad
        Leave out, and count, rows without a question or a reference answer and boxes wholly beside their picture, instead of refusing.

    Returns
    -------
    Benchmark
        Its `report` holds the counts of :class:`Report`. Boxes are pixels of the original picture; one without area is dropped,
        one beyond the picture clipped. The knob `box_kind` of a sample is ``union`` where the annotation holds one box around all
        that was marked (benchmark and detection files), ``marked`` where it holds each box. A sample is
        ``<dataset>/<split>/<number>``; its `image_id` is ``<folder>/<file>``, so that two data sets about one picture share it.

    Raises
    ------
    BenchmarkError
        A file or folder is missing, a file is in none of the three forms, a detection file has no benchmark file, the split is
        unknown, or no row is left.
    SampleError
        A row has no question or no reference answer, or a box lies beside its picture (unless `skip_bad`).
    """
    if split not in _SPLITS:
        raise BenchmarkError(f"Visual-CoT has no split {split!r}; use one of {', '.join(_SPLITS)}.")
    wanted = _SPLITS[split]
    folder = Path(images)
    if not folder.is_dir():
        raise BenchmarkError(f"Visual-CoT images folder {str(folder)!r} does not exist; give the folder that holds <dataset>/<file>.")
    paths = [Path(p) for p in ([annotations] if isinstance(annotations, str | Path) else annotations)]
    if not paths:
        raise BenchmarkError("Visual-CoT was given no annotation file; give annotations=PATH or a list of paths.")
    if repeated := [str(p) for p, n in Counter(paths).items() if n > 1]:
        raise BenchmarkError(f"Visual-CoT annotation file {repeated[0]!r} is given twice; name each file once.")

    rows, n_unused = read_rows(paths)
    report = Report(n_unused_detections=n_unused)
    samples: list[Sample] = []
    used: Counter[str] = Counter()
    for row in rows:
        report.n_rows += 1
        if row.split != wanted:
            report.n_other_split += 1
        elif not (row.question and row.answers):
            report.n_without_text += 1
            if not skip_bad:
                raise SampleError(f"Sample {_name(row)!r} has no question or no reference answer; {_REMEDY}.")
        else:
            samples.append(_sample(row, folder, used, report, skip_bad))
            if len(samples) == limit:
                break
    if not samples:
        held = ", ".join(sorted({row.split for row in rows})) or "no rows"
        if report.n_without_text:
            held += f"; {report.n_without_text} of these rows have no question or no reference answer"
        raise BenchmarkError(
            f"Visual-CoT annotations {', '.join(map(repr, map(str, paths)))} hold no usable row of split {split!r} "
            f"(they hold {held}); choose another split or file."
        )
    return Benchmark("visual-cot", wanted, samples, asdict(report))


def _name(row: Row) -> str:
    return f"{row.dataset}/{row.split}/{row.number}"


def _sample(row: Row, folder: Path, used: Counter[str], report: Report, skip_bad: bool) -> Sample:
    places = _places(folder, row.picture)
    path = next((place for place in places if place.is_file()), None)
    report.n_missing_images += path is None
    size = row.size or (header_size(path) if path else None)
    regions = [Region(box) for box in _clean(row.boxes, size, report)]
    if report.n_outside_boxes and not skip_bad and size:
        raise SampleError(f"Sample {_name(row)!r} has a box outside its {size[0]:g} x {size[1]:g} image; {_REMEDY}.")
    report.n_without_evidence += not regions
    name = _name(row)
    used[name] += 1
    if used[name] > 1:  # a data set in several files, each numbered from 0
        name = f"{name}-{used[name]}"
    return Sample(
        name,
        path or Sought(row.picture, places),
        row.question,
        row.answers,
        regions,
        image_id=row.picture,
        dataset=row.dataset,
        split=row.split,
        knobs={"box_kind": row.box_kind},
    )


def _clean(boxes: Iterable[Box], size: Size | None, report: Report) -> Iterable[Box]:
    """The boxes that have an area inside the picture, clipped to it where its size is known."""
    for box in boxes:
        x0, y0, x1, y1 = box
        if x1 <= x0 or y1 <= y0:
            report.n_degenerate_boxes += 1
            continue
        if size is None:
            report.n_unchecked_boxes += 1
            yield box
            continue
        clipped = (max(x0, 0.0), max(y0, 0.0), min(x1, size[0]), min(y1, size[1]))
        if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
            report.n_outside_boxes += 1
            continue
        report.n_clipped_boxes += clipped != box
        yield clipped


def _places(folder: Path, picture: str) -> tuple[Path, ...]:
    """Where a picture may be: under the archive's folders, under the name its paths begin with, or straight in one data set's folder."""
    inside = PurePosixPath(picture)
    return folder / inside, folder / "cot" / inside, folder.joinpath(*inside.parts[1:])
