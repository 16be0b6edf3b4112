"""Work that several methods share: done once, and charged to each of them as if it had worked alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Part:
    value: Any
    seconds: float  # its own, without the parts it is made of
    needs: frozenset[str]  # those parts, and theirs, and itself


class Shared:
    """Named parts that are made when first asked for."""

    def __init__(self) -> None:
        self._parts: dict[str, _Part] = {}
        self._used: set[str] = set()
        self._inside = 0.0

    def once(self, name: str, make: Callable[[], T]) -> T:
        """The part called `name`; `make` runs the first time only, and may ask for other parts."""
        if name not in self._parts:
            value, seconds, used = self._watched(make)
            self._parts[name] = _Part(value, seconds, frozenset(used | {name}))
        self._used |= self._parts[name].needs
        return self._parts[name].value

    def timed(self, work: Callable[[], T]) -> tuple[T, float]:
        """What `work` gives, and the seconds it takes by itself: its own, and those of every part it uses, whoever made it."""
        value, seconds, used = self._watched(work)
        return value, seconds + sum(self._parts[name].seconds for name in used)

    def _watched(self, work: Callable[[], T]) -> tuple[T, float, set[str]]:
        """The result, the seconds spent outside of parts, and the parts used."""
        outer_used, outer_inside = self._used, self._inside
        self._used, self._inside = set(), 0.0
        began = time.perf_counter()
        try:
            value = work()
            spent = time.perf_counter() - began
            return value, spent - self._inside, self._used
        finally:
            self._used, self._inside = outer_used, outer_inside + time.perf_counter() - began
