"""A benchmark: named samples in a fixed order, read one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import overload

from interp.benchmarks.sample import Sample


class Benchmark(Sequence[Sample]):
    """Samples with the name and split they came from. A slice is again a benchmark; no sample is built before it is asked for.

    Parameters
    ----------
    name
        What :func:`interp.load_benchmark` knows it by.
    split
        Which part of it these samples are.
    samples
        The samples, or any sequence that builds them on demand.
    report
        What the loader counted while reading (boxes dropped or clipped, rows left out), so that nothing is lost silently.
    """

    def __init__(self, name: str, split: str, samples: Sequence[Sample], report: Mapping[str, int] | None = None) -> None:
        self.name = name
        self.split = split
        self.report: Mapping[str, int] = MappingProxyType(dict(report or {}))
        self._samples = samples
        self._order = range(len(samples))

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Benchmark: ...
    def __getitem__(self, index: int | slice) -> Sample | Benchmark:
        if isinstance(index, slice):
            part = Benchmark(self.name, self.split, self._samples, self.report)
            part._order = self._order[index]
            return part
        return self._samples[self._order[index]]

    def __repr__(self) -> str:
        return f"Benchmark({self.name!r}, split={self.split!r}, {len(self)} samples)"
