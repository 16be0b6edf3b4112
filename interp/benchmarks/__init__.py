"""Samples (picture, question, references, regions) and the benchmarks that hold them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from interp.benchmarks.benchmark import Benchmark
from interp.benchmarks.sample import Box, Region, Role, Sample
from interp.errors import BenchmarkError

__all__ = ["BENCHMARKS", "Benchmark", "Box", "Region", "Role", "Sample", "load_benchmark"]


@dataclass(frozen=True, slots=True)
class _Loader:
    """Where a benchmark's ``load(split=, limit=, **options)`` lives, and the splits it has (None: any). Imported when asked for."""

    module: str
    splits: tuple[str, ...] | None


_LOADERS: dict[str, _Loader] = {
    "digits": _Loader("interp.benchmarks.digits", ("train", "validation", "profile", "test")),
    "visual-cot": _Loader("interp.benchmarks.visual_cot", ("train", "val", "validation", "test")),
    "jsonl": _Loader("interp.benchmarks.jsonl", None),
}

BENCHMARKS: tuple[str, ...] = tuple(_LOADERS)
"""The names :func:`load_benchmark` knows."""


def load_benchmark(name: str, *, split: str | None = None, limit: int | None = None, **options: Any) -> Benchmark:
    """The samples of a benchmark.

    Parameters
    ----------
    name
        One of :data:`BENCHMARKS`.
    split
        Which part; by default ``test``, and of ``jsonl``, whose rows may say any split or none, all rows.
    limit
        Take the first so many samples only.
    options
        What this benchmark's loader takes besides: ``visual-cot`` needs ``annotations=`` and ``images=``, ``jsonl`` (your own data, see
        :mod:`interp.benchmarks.jsonl`) ``path=``, and takes ``images=``; both take ``skip_bad=``.

    Returns
    -------
    Benchmark
        At least one sample.

    Raises
    ------
    BenchmarkError
        The name, the split or an option is unknown, a needed option is missing, `limit` is not a positive integer, or no
        sample is there.
    """
    if name not in _LOADERS:
        raise BenchmarkError(f"Benchmark {name!r} is unknown; use one of {', '.join(_LOADERS)}.")
    splits = _LOADERS[name].splits
    if split is None and splits is not None:
        split = "test"
    if splits is not None and split not in splits:
        raise BenchmarkError(f"Benchmark {name!r} has no split {split!r}; use one of {', '.join(splits)}.")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise BenchmarkError(f"limit={limit!r} leaves no sample of benchmark {name!r}; give a positive integer, or None for all.")
    load: Callable[..., Sequence[Sample]] = importlib.import_module(_LOADERS[name].module).load
    _check_options(name, load, options)
    samples = load(split=split, limit=limit, **options)
    if not len(samples):
        raise BenchmarkError(f"Benchmark {name!r}, split {split!r}, has no samples; choose another split or other options.")
    return samples if isinstance(samples, Benchmark) else Benchmark(name, split or "", samples)


def _check_options(name: str, load: Callable[..., object], options: dict[str, Any]) -> None:
    parameters = {key: p for key, p in inspect.signature(load).parameters.items() if key not in ("split", "limit")}
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):  # such a loader judges its options itself
        return
    for key in options:
        if key not in parameters:
            raise BenchmarkError(f"Benchmark {name!r} has no option {key!r}; its options are {', '.join(parameters) or 'none'}.")
    missing = [key for key, p in parameters.items() if p.default is p.empty and options.get(key) is None]
    if missing:
        raise BenchmarkError(f"Benchmark {name!r} needs {', '.join(missing)}; give {', '.join(f'{key}=...' for key in missing)}.")
