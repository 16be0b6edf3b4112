"""What faults do to evidence labels and references, on the published Visual-CoT annotations; no picture is needed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

import interp
from experiments.authors import scores
from experiments.authors.labels import Box, Labels, Placement, Size, centre_crop, squash, whole_cells
from interp.analysis import mean_interval

_SMALLEST = 8  # pixels: the height under which writing cannot be read


@dataclass(frozen=True)
class _Marked:
    picture: str
    size: Size
    box: Box


def study(folder: Path) -> pd.DataFrame:
    """One row per data set, fault and measure: mean with interval over pictures, and n.

    Parameters
    ----------
    folder
        Holds detection files (``*.jsonl`` with boxes and picture sizes), each with its benchmark file where `visual-cot` looks for it.
    """
    rows = []
    for path in sorted(folder.glob("*.jsonl")):
        marked = list(_marked(path))
        if not marked:
            continue
        of_box = [_of_box(one.size, one.box) for one in marked]
        rows += _means(path.stem.removesuffix("_det"), of_box, [one.picture for one in marked])
        bench = interp.load_benchmark("visual-cot", annotations=path, images=folder, split="val", skip_bad=True)
        rows += _means(path.stem.removesuffix("_det"), [_of_references(s.references) for s in bench], [s.image_id for s in bench])
    return pd.DataFrame(rows)


def _marked(path: Path) -> Iterator[_Marked]:
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "bbox" not in row:  # a training file, of another form
            return
        x0, y0, x1, y1 = (float(value) for value in row["bbox"])
        yield _Marked(row["img_path"], (float(row["width"]), float(row["height"])), (x0, y0, x1, y1))


def _of_box(size: Size, box: Box) -> dict[tuple[str, str], float]:
    """By fault and measure; NaN where a measure says nothing about the box."""
    assumed, true = centre_crop(size, 896, 56), squash(size, 896, 56)
    crop, cells = centre_crop(size, 336, 14), whole_cells(size)
    exact, theirs, gemma = cells.exact(box), cells.theirs(box), true.exact(box)
    kept = crop.inside(box) if exact.any() else np.nan
    common = assumed.exact(box) & gemma
    return {
        ("squash", "IoU with the true labels"): _share(common, assumed.exact(box) | gemma) if gemma.any() else np.nan,
        ("squash", "no token in common with the true labels"): float(not common.any()) if gemma.any() else np.nan,
        ("squash", "called outside, though seen"): float(assumed.flagged(box)),
        ("crop", "wholly outside the crop"): np.nan if np.isnan(kept) else float(kept <= 0),
        ("crop", "cut by the crop, not reported"): np.nan if np.isnan(kept) else float(0 < kept < 1 - 1e-9),
        ("resolution", f"under {_SMALLEST} pixels high"): float(_height(cells, box) < _SMALLEST),
        ("clipping", "labels differ from exact overlap"): float((exact != theirs).any()),
        ("clipping", "evidence tokens lost"): _share(exact & ~theirs, exact) if exact.any() else np.nan,
        ("clipping", "left without any label"): float(not theirs.any()),
    }


def _of_references(references: tuple[str, ...]) -> dict[tuple[str, str], float]:
    words = [scores.plain(reference).split() for reference in references]
    return {
        ("containment", "a reference of at most two characters"): float(any(len("".join(each)) <= 2 for each in words)),
        ("containment", "abstaining counts as right"): scores.exact_match(scores.ABSTENTION, references),
        ("set F1", "a reference repeats a word"): float(any(len(set(each)) < len(each) for each in words)),
    }


def _means(dataset: str, measured: list[dict[tuple[str, str], float]], pictures: list[str]) -> list[dict[str, object]]:
    names = list(measured[0])
    table = xr.DataArray([[one[name] for name in names] for one in measured], dims=("sample", "measure"))
    found = mean_interval(table, xr.DataArray(np.array(pictures, dtype=object), dims="sample", name="image_id"))
    lower, upper = found["interval"].transpose("ci_bound", "measure").values
    means, n = found["mean"].values, found["n"].values
    return [
        {"fault": fault, "dataset": dataset, "measure": measure, "mean": means[k], "lower": lower[k], "upper": upper[k], "n": n[k]}
        for k, (fault, measure) in enumerate(names)
    ]


def _share(part: Labels, whole: Labels) -> float:
    return float(part.sum() / whole.sum())


def _height(cells: Placement, box: Box) -> float:
    placed = cells.place(box)
    return placed[3] - placed[1]
