"""Work that several methods share: done once, and charged to each of them as if it had worked alone.

What is charged is whatever a meter reads: seconds by default, or an array of seconds and tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Part:
    value: Any
    cost: Any  # its own, without the parts it is made of
    needs: frozenset[str]  # those parts, and theirs, and itself


class Shared:
    """Named parts that are made when first asked for.

    Parameters
    ----------
    meter
        What has been spent so far: a number, or an array of numbers. By default the clock, in seconds.
    """

    def __init__(self, meter: Callable[[], Any] | None = None) -> None:
        self._meter = meter or (lambda: time.perf_counter())
        self._parts: dict[str, _Part] = {}
        self._used: set[str] = set()
        self._inside: Any = 0.0

    def once(self, name: str, make: Callable[[], T]) -> T:
        """The part called `name`; `make` runs the first time only, and may ask for other parts."""
        if name not in self._parts:
            value, cost, used = self._watched(make)
            self._parts[name] = _Part(value, cost, frozenset(used | {name}))
        self._used |= self._parts[name].needs
        return self._parts[name].value

    def timed(self, work: Callable[[], T]) -> tuple[T, Any]:
        """What `work` gives, and what it costs by itself: its own cost, and that of every part it uses, whoever made it."""
        value, cost, used = self._watched(work)
        return value, cost + sum(self._parts[name].cost for name in used)

    def _watched(self, work: Callable[[], T]) -> tuple[T, Any, set[str]]:
        """The result, the cost outside of parts, and the parts used."""
        outer_used, outer_inside = self._used, self._inside
        self._used, self._inside = set(), 0.0
        began = self._meter()
        try:
            value = work()
            spent = self._meter() - began
            return value, spent - self._inside, self._used
        finally:
            self._used, self._inside = outer_used, outer_inside + self._meter() - began
