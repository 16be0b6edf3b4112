"""Like with like: samples in classes of what the benchmark varied, and permutations of labels that stay within them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp.errors import InterpError

_CLASSES = 3  # a number is cut into terciles


def strata_of(ds: xr.Dataset, knobs: Sequence[str], chosen: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The stratum (sample,) of each sample, numbered from 0: one for each combination of classes that occurs.

    A knob that is a number with more than three values is cut at the terciles of the `chosen` samples; any other is taken as it is.

    Raises
    ------
    InterpError
        The dataset has no such knob.
    """
    number = np.zeros(ds.sizes["sample"], dtype=np.intp)
    for knob in knobs:
        name = next((each for each in (f"knob_{knob}", knob) if each in ds.variables and ds[each].dims == ("sample",)), None)
        if name is None:
            known = sorted(str(each).removeprefix("knob_") for each in ds.variables if str(each).startswith("knob_"))
            raise InterpError(f"Knob {knob!r} is unknown to this trace; use {', '.join(known) or 'a benchmark with knobs'}.")
        classes = _classes(ds[name].values, chosen)
        number = np.unique(number * (classes.max() + 1) + classes, return_inverse=True)[1]
    return number


def _classes(values: NDArray[np.generic], chosen: NDArray[np.bool_]) -> NDArray[np.intp]:
    if values.dtype.kind in "iuf":
        numbers = values.astype(np.float64)
        known = numbers[chosen & ~np.isnan(numbers)]
        if len(np.unique(known)) > _CLASSES:
            cuts = np.quantile(known, np.arange(1, _CLASSES) / _CLASSES)
            # A missing number is a class of its own, the last.
            return np.where(np.isnan(numbers), _CLASSES, np.searchsorted(cuts, numbers, side="right"))
        return np.unique(numbers, return_inverse=True)[1]
    return np.unique(values.astype(object), return_inverse=True)[1]


def permuted_labels(
    labels: NDArray[np.bool_], clusters: NDArray[np.intp], strata: NDArray[np.intp], n: int, seed: int = 0
) -> NDArray[np.bool_]:
    """`n` relabellings (n, sample) that exchange the labels of whole clusters.

    The labels of a cluster stay together: they go to a cluster with as many samples in the same strata, in random order within a stratum.
    So neither what the samples of a picture have in common nor what the strata explain is mistaken for an effect. A cluster of one sample
    in each stratum that no other cluster matches keeps its labels.

    Parameters
    ----------
    labels, clusters, strata
        (sample,).
    """
    order = np.lexsort((strata, clusters))
    starts = np.flatnonzero(np.diff(clusters[order], prepend=-1))
    alike: dict[tuple[int, ...], list[NDArray[np.intp]]] = {}
    for block in np.split(order, starts[1:]):
        alike.setdefault(tuple(strata[block].tolist()), []).append(block)
    rng = np.random.default_rng(seed)
    result = np.tile(labels, (n, 1))
    for blocks in alike.values():
        members = np.stack(blocks)
        for start in range(0, n, 100):  # random keys take eight times the memory of labels
            part = result[start : start + 100]
            exchange = rng.permuted(np.tile(np.arange(len(members)), (len(part), 1)), axis=1)
            given = labels[members][exchange]
            # A random key in [0, 1) above the stratum's number shuffles within a stratum and nowhere else.
            shuffle = np.argsort(strata[members[0]] + rng.random(given.shape), axis=-1)
            part[:, members] = np.take_along_axis(given, shuffle, axis=-1)
    return result
