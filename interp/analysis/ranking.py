"""Where the positives of a row stand among all its scores: one sort per row, from which every ranking metric follows.

A row is one map (a sample, a layer, a head) over tokens. Rows are sorted many at a time; what is kept is small: for each *positive*, how
many scores are above it and how many are at least as high. Ties need no treatment afterwards, they are the gap between the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_AT_ONCE = 1 << 17  # scores sorted in one go: what fits into a processor's cache
_LEFT_OUT = np.uint64(1 << 34)  # sorts after every key

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ranks:
    """The positives of some rows, best score first.

    Parameters
    ----------
    n, n1
        (rows,) how many scores count in each row, and how many of them are positives.
    row
        (positives,) the row each belongs to.
    above, reach
        (positives,) how many of the row's scores are higher, and how many are at least as high (itself included).
    found
        (positives,) how many of the row's positives are among `reach`.
    """

    n: NDArray[np.int64]
    n1: NDArray[np.int64]
    row: NDArray[np.int64]
    above: NDArray[np.int64]
    reach: NDArray[np.int64]
    found: NDArray[np.int64]

    def total(self, values: ArrayLike) -> _Floats:
        """Sum (rows,) of one value per positive."""
        return np.bincount(self.row, np.asarray(values, dtype=np.float64), minlength=len(self.n)).astype(np.float64)


Measure = Callable[[Ranks], _Floats]


def over_ranks(scores: ArrayLike, labels: ArrayLike, *measures: Measure) -> tuple[_Floats, ...]:
    """`measures` of every row, from one sort.

    Parameters
    ----------
    scores, labels
        (..., n), of shapes that broadcast; a label is 1 (positive), 0 (negative) or NaN (left out), a NaN score is left out too.

    Returns
    -------
    tuple
        One array (...) per measure.
    """
    values, marks = np.asarray(scores), np.asarray(labels, dtype=np.float64)
    if values.dtype.kind != "f":
        values = values.astype(np.float64)
    elif values.dtype.itemsize < 4:
        values = values.astype(np.float32)
    if values.shape[-1:] != marks.shape[-1:]:
        raise ValueError(f"scores {values.shape} and labels {marks.shape} differ along the last axis")
    n = values.shape[-1]
    lead = np.broadcast_shapes(values.shape[:-1], marks.shape[:-1])
    # Columns that no row counts (text tokens, padding) are not worth sorting.
    used = ~np.isnan(marks).all(axis=tuple(range(marks.ndim - 1)))
    if not used.all():
        values, marks, n = values[..., used], marks[..., used], int(used.sum())
    rows_of = [np.broadcast_to(np.arange(math.prod(a.shape[:-1])).reshape(a.shape[:-1]), lead).ravel() for a in (values, marks)]
    values, marks = (a.reshape(math.prod(a.shape[:-1]), n) for a in (values, marks))
    positive, defined = marks > 0, ~np.isnan(marks)
    results = tuple(np.empty(math.prod(lead)) for _ in measures)
    step = max(1, _AT_ONCE // max(n, 1))
    for start in range(0, math.prod(lead), step):
        part = slice(start, start + step)
        of_labels = rows_of[1][part]
        ranks = _ranks(values[rows_of[0][part]], positive[of_labels], defined[of_labels])
        for result, measure in zip(results, measures, strict=True):
            result[part] = measure(ranks)
    return tuple(result.reshape(lead) for result in results)


def _ranks(scores: NDArray[np.floating], positive: NDArray[np.bool_], defined: NDArray[np.bool_]) -> Ranks:
    counted = defined & ~np.isnan(scores)
    sort = _sorted_keys if scores.dtype == np.float32 else _sorted_indices
    hit, tied = sort(scores, positive, counted)  # in descending order; what is left out comes last
    rows, n = scores.shape
    row, place = np.nonzero(hit)
    n1 = hit.sum(axis=-1)
    first = np.cumsum(n1) - n1
    if not tied.any():
        above, reach, found = place, place + 1, np.arange(len(row)) - first[row] + 1
    else:
        begins, ends = np.ones((rows, n), dtype=bool), np.ones((rows, n), dtype=bool)
        begins[:, 1:], ends[:, :-1] = ~tied, ~tied
        places = np.arange(n, dtype=np.int32)
        above = np.maximum.accumulate(np.where(begins, places, 0), axis=-1)[row, place].astype(np.int64)
        reach = np.minimum.accumulate(np.where(ends, places, n)[:, ::-1], axis=-1)[:, ::-1][row, place].astype(np.int64) + 1
        found = np.cumsum(hit, axis=-1, dtype=np.int32)[row, reach - 1].astype(np.int64)
    return Ranks(counted.sum(axis=-1), n1, row, above, reach, found)


def _sorted_keys(
    scores: NDArray[np.floating], positive: NDArray[np.bool_], counted: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Labels in descending order of single-precision scores (rows, n), and where a score equals the one before it (rows, n - 1).

    The bits of a float, read as an integer, sort as the float does (with the sign handled). The label rides in the lowest bit of a wider
    integer, so that a plain sort moves it along: three times as fast as an indirect sort.
    """
    bits = (scores + np.float32(0)).view(np.uint32)  # -0 equals 0
    sign = (bits >> 31).astype(bool)
    descending = np.where(sign, bits, ~bits & np.uint32(0x7FFFFFFF))
    keys = (descending.astype(np.uint64) << np.uint64(1)) | (positive & counted)
    all_count = counted.all()
    if not all_count:
        np.putmask(keys, ~counted, _LEFT_OUT)
    keys.sort(axis=-1)
    hit = (keys & np.uint64(1)).astype(bool)
    keys >>= np.uint64(1)
    tied = keys[:, 1:] == keys[:, :-1]
    return hit, tied if all_count else tied & (keys[:, 1:] < _LEFT_OUT >> np.uint64(1))


def _sorted_indices(
    scores: NDArray[np.floating], positive: NDArray[np.bool_], counted: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The same for scores of any precision."""
    falling = np.where(counted, -scores, np.nan)  # NaN sorts last
    order = np.argsort(falling, axis=-1)
    sorted_scores = np.take_along_axis(falling, order, axis=-1)
    hit = np.take_along_axis(positive & counted, order, axis=-1)
    return hit, sorted_scores[:, 1:] == sorted_scores[:, :-1]
