"""A progress bar where somebody watches: rich in a terminal, tqdm in a notebook, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], total: int, label: str, show: bool | None = None) -> Iterator[T]:
    """The items, with a bar of `total` steps named `label`. `show` forces it on or off; by default it shows where it can be seen."""
    notebook = "ipykernel" in sys.modules
    if not (show if show is not None else notebook or sys.stderr.isatty()):
        yield from items
    elif notebook:
        from tqdm.auto import tqdm

        yield from tqdm(items, total=total, desc=label)
    else:
        from rich.console import Console
        from rich.progress import track as rich_track

        yield from rich_track(items, description=label, total=total, console=Console(stderr=True))
