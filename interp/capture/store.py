"""A crash-safe store: *plan* what is known, *capture* sample by sample, *seal* when all is there.

A sample's arrays are written first and its marker last, so a store killed at any moment loses only the sample in flight, and resuming is
doing what is not marked. Several processes may fill one store. Nothing here needs torch: a stored trace is analysed on a laptop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp.capture import layout
from interp.capture.guarded import guarded
from interp.capture.layout import DONE, Plan, Planned
from interp.capture.reading import as_trace
from interp.capture.schema import fault
from interp.errors import StoreError

__all__ = ["Plan", "Planned", "Store", "open_store", "open_trace"]

FORMAT = 1  # of the files; part of every store's identity

_NOUNS = {"trace": "a trace (interp.trace)", "answers": "answers (interp.evaluate)"}
_FAULTS: dict[str, Callable[[xr.DataTree], str | None]] = {"trace": lambda tree: fault(as_trace(tree))}


class Store:
    """A store that is being filled. Made by :meth:`resume_or_plan`.

    Parameters
    ----------
    path
        Its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._attrs = _attributes(path)
        self._names: list[str] = self._attrs["captured"]
        self._n: int = _read(path / DONE, path)["shape"][0]
        self._arrays: dict[str, Any] = {}

    @classmethod
    def resume_or_plan(cls, path: str | Path, kind: str, identity: Mapping[str, Any], build: Callable[[], Plan], resume: str) -> Store:
        """The store at `path`, begun if there is none.

        Parameters
        ----------
        kind
            What it holds, ``"trace"`` or ``"answers"``.
        identity
            The settings its content follows from, JSON-able, named as the user knows them.
        build
            Gives the plan; called only where there is no store yet.
        resume
            The command or call that takes an unfinished store up again; kept in it.

        Raises
        ------
        StoreError
            `path` is something else, holds another kind, was begun with other settings, or is damaged.
        """
        folder = Path(path)
        wanted = json.loads(json.dumps({**identity, "store format": FORMAT}))
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            plan = build()
            attrs = {"interp": kind, "identity": wanted, "resume": resume, "captured": list(plan.captured), "sealed": False}
            try:
                layout.create(folder, plan, attrs)
            except OSError as error:
                raise StoreError(f"Store {str(folder)!r} cannot be made ({error.strerror or error}); choose another path.") from error
        store = cls(folder)
        _check_kind(store._attrs, folder, kind)
        held = store._attrs["identity"]
        differing = [
            f"{name} is {held.get(name)!r} there and {wanted.get(name)!r} here"
            for name in dict.fromkeys([*wanted, *held])
            if held.get(name) != wanted.get(name)
        ]
        if differing:
            raise StoreError(
                f"Store {str(folder)!r} was begun with other settings ({'; '.join(differing)}); use those, or choose another path."
            )
        return store

    @property
    def kind(self) -> str:
        """What it holds, ``trace`` or ``answers``, which is also the name of its main group."""
        return self._attrs["interp"]

    @property
    def sealed(self) -> bool:
        """Whether it is complete and checked."""
        return bool(_attributes(self.path)["sealed"])

    @property
    def progress(self) -> tuple[int, int]:
        """Samples done, and samples in all."""
        return self._n - len(self.todo()), self._n

    def todo(self) -> NDArray[np.intp]:
        """Indices of the samples that are not done: not marked, or marked with a file missing."""
        try:
            return np.flatnonzero(~layout.written(self.path, [*self._names, DONE], self._n))
        except (OSError, ValueError, KeyError) as error:
            raise _damaged(self.path, f"it cannot be read ({error})", self._attrs) from error

    def write(self, index: int, values: Mapping[str, NDArray[Any]]) -> None:
        """Write one sample: its arrays, then its marker.

        Parameters
        ----------
        index
            Position along `sample`.
        values
            Each captured array's part without the dimension `sample`; where it is shorter than planned, the fill value stays.

        Raises
        ------
        StoreError
            An array is missing, unplanned, or longer than planned, or the disk is full.
        """
        if set(values) != set(self._names):
            odd = sorted(set(values) ^ set(self._names))
            raise StoreError(f"Store {str(self.path)!r} takes the arrays {self._names} of a sample, not more or fewer; check {odd}.")
        try:
            if not self._arrays:
                self._arrays = layout.captured_arrays(self.path, [*self._names, DONE])
            for name, value in values.items():
                self._arrays[name][index : index + 1] = self._padded(name, value)
            self._arrays[DONE][index : index + 1] = True
        except FileNotFoundError:
            # another process that filled the same samples sealed meanwhile, and swept this one's unfinished file away: the sample is there
            if len(self.todo()):
                raise
        except OSError as error:
            raise StoreError(
                f"Store {str(self.path)!r} cannot be written ({error.strerror or error}); make room, then take it up again with: "
                f"{self._attrs['resume']}"
            ) from error

    def tree(self) -> xr.DataTree:
        """All groups, lazily, as far as they are filled."""
        return _open_tree(self.path, self._attrs, consolidated=False)

    def seal(self, derive: Callable[[xr.DataTree], Mapping[str, xr.Dataset]]) -> None:
        """Complete a store of which every sample is done: derive the rest, check the schema, gather the metadata, mark it.

        It may be repeated, reached by two processes at once, and killed: the next call ends it.

        Parameters
        ----------
        derive
            From all groups, the further variables by group.

        Raises
        ------
        StoreError
            Samples are not done, or the content does not fit the schema.
        """
        if self.sealed:
            return
        if len(self.todo()):
            raise _unfinished(self.path, self._attrs)
        try:
            layout.add(self.path, derive(self.tree()))
            _check_content(self.tree(), self._attrs, self.path)
            layout.finish(self.path, {"sealed": True})
        except Exception:
            # the quicker of two processes sweeps the other's scratch folder away once the store is sealed
            if not self.sealed:
                raise

    def _padded(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        array = self._arrays[name]
        shape = array.shape[1:]
        if value.ndim != len(shape) or any(have > room for have, room in zip(value.shape, shape, strict=True)):
            raise StoreError(
                f"Store {str(self.path)!r} has room for {shape} of {name!r} per sample, not {value.shape}; the processor or the samples "
                "changed since it was begun: choose another path."
            )
        padded = np.full((1, *shape), array.fill_value, dtype=array.dtype)
        padded[(0, *(slice(length) for length in value.shape))] = value
        return padded


def open_store(path: str | Path, kind: str) -> xr.DataTree:
    """A finished store's groups, lazily.

    Parameters
    ----------
    path
        Its folder.
    kind
        What it should hold, ``"trace"`` or ``"answers"``.

    Raises
    ------
    StoreError
        Nothing is there, it is no store of this kind, it is not finished (with how much is done, and how to go on), or it is damaged.
    """
    folder = Path(path)
    attrs = _attributes(folder)
    _check_kind(attrs, folder, kind)
    if not attrs["sealed"]:
        raise _unfinished(folder, attrs)
    try:
        lacks = layout.damage(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        lacks = f"its metadata cannot be read ({error})"
    if lacks:
        raise _damaged(folder, lacks, attrs)
    tree = _open_tree(folder, attrs, consolidated=True)
    _check_content(tree, attrs, folder)
    return tree


def open_trace(path: str | Path) -> xr.Dataset:
    """A finished trace as one lazy dataset, the same as `interp.trace` gives in memory.

    Attention lies on disk in half precision by default and comes as float32, in dask chunks of some samples; what is small is read when
    it is used.

    Raises
    ------
    StoreError
        As in `open_store`.

    Examples
    --------
    >>> ds = open_trace("run.zarr")  # doctest: +SKIP
    >>> ds["attention"].isel(layer=14, head=3).load()  # doctest: +SKIP
    """
    return as_trace(open_store(path, "trace"))


def _open_tree(path: Path, attrs: Mapping[str, Any], *, consolidated: bool) -> xr.DataTree:
    try:
        tree = xr.open_datatree(path, engine="zarr", consolidated=consolidated, chunks=None)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:  # zarr's errors are some of these
        raise _damaged(path, f"it cannot be opened ({_line(error)})", attrs) from error
    return guarded(tree, partial(_unreadable, path, attrs))


def _check_content(tree: xr.DataTree, attrs: Mapping[str, Any], path: Path) -> None:
    check = _FAULTS.get(attrs["interp"])
    try:
        found = check(tree) if check else None
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        found = _line(error)
    if found:
        raise _damaged(path, found, attrs)


def _attributes(path: Path) -> dict[str, Any]:
    """A store's own attributes."""
    if not path.exists():
        raise StoreError(f"Store {str(path)!r} does not exist; check the path, or make it with interp.trace or interp.evaluate.")
    if not (path / "zarr.json").is_file():
        raise StoreError(f"{str(path)!r} is no store (it has no zarr.json); choose another path.")
    attrs = _read(path, path).get("attributes", {})
    missing = {"interp", "identity", "resume", "captured", "sealed"} - set(attrs)
    if missing:
        raise StoreError(f"{str(path)!r} is a Zarr folder that interp did not write; choose another path.")
    return attrs


def _read(node: Path, store: Path) -> dict[str, Any]:
    try:
        return layout.metadata(node)
    except (OSError, ValueError) as error:
        name = "its zarr.json" if node == store else f"the zarr.json of {node.relative_to(store).as_posix()!r}"
        raise StoreError(f"Store {str(store)!r} is damaged: {name} cannot be read; restore it from a copy, or delete it.") from error


def _check_kind(attrs: Mapping[str, Any], path: Path, kind: str) -> None:
    held = attrs["interp"]
    if held != kind:
        raise StoreError(f"Store {str(path)!r} holds {_NOUNS.get(held, held)}, not {_NOUNS.get(kind, kind)}; choose another path.")


def _unfinished(path: Path, attrs: Mapping[str, Any]) -> StoreError:
    done, total = Store(path).progress
    return StoreError(f"Store {str(path)!r} is not finished ({done} of {total} samples are done); take it up again with: {attrs['resume']}")


def _damaged(path: Path, what: str, attrs: Mapping[str, Any]) -> StoreError:
    return StoreError(
        f"Store {str(path)!r} is damaged: {what}; restore it from a copy, or delete it and make it again with: {attrs['resume']}"
    )


def _unreadable(path: Path, attrs: Mapping[str, Any], name: str, error: Exception) -> StoreError:
    return _damaged(path, f"{name!r} cannot be read ({_line(error)})", attrs)


def _line(error: Exception) -> str:
    """An error's first sentence: the bytes that a checksum names further on help nobody."""
    return next(iter(str(error).splitlines()), type(error).__name__).split(". ")[0].rstrip(".")
