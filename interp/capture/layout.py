"""How a store lies on disk: Zarr 3 in which every file is whole or absent, so that a kill at any moment leaves nothing half-made.

Zarr renames each finished file into place. What spans several files (a new store, the derived arrays) is made in a scratch folder beside
the store and renamed as a whole; where two processes do so at once, the first one wins and the other uses its work. Every chunk is
written, fill values included, so a missing or empty file is always damage; chunk files of an array lie side by side, so looking for them
is cheap. Every chunk ends with its checksum, so a changed one is noticed where it is read.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

_META = "zarr.json"
_UNFINISHED = ".partial"  # zarr's own ending for a file that is being written, and ours for a scratch folder
_KEYS = {"name": "default", "configuration": {"separator": "."}}
_ELEMENTS = {"text": 1 << 16, "number": 1 << 18}  # a chunk of static facts: small enough that a block of samples reads little else
_CONSOLIDATED = {"kind": "inline", "must_understand": False}

DONE = "capture/done"


@dataclass(frozen=True)
class Planned:
    """One preallocated array, leading dimension `sample`: dimension names, whole shape, dtype, fill value, and attributes."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    fill: float | int | bool
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a store begins with.

    Parameters
    ----------
    static
        By group, what is known before any forward pass; each has the dimension `sample`.
    captured
        By "group/name", the arrays that are filled sample by sample.
    """

    static: Mapping[str, xr.Dataset]
    captured: Mapping[str, Planned]


def create(path: Path, plan: Plan, attrs: Mapping[str, Any]) -> None:
    """Make the store, whole. Where another process was quicker, its store stands and this one's is dropped."""
    lengths = {planned.shape[0] for planned in plan.captured.values()}
    (n,) = lengths  # one store, one number of samples
    with _scratch(path) as folder:
        try:
            zarr.create_group(folder, zarr_format=3, attributes=dict(attrs))
            for group in dict.fromkeys([*plan.static, *(name.split("/")[0] for name in plan.captured), DONE.split("/")[0]]):
                _write(plan.static.get(group, xr.Dataset()), folder, group)
            for name, planned in plan.captured.items():
                _allocate(folder, name, planned)
            _allocate(folder, DONE, Planned(("sample",), (n,), "bool", False))
            folder.rename(path)
            _sweep_scratch(path)
        except Exception:
            # the quicker process sweeps the scratch folders of the others away while they are being written
            if not (path / _META).exists():
                raise


def add(path: Path, derived: Mapping[str, xr.Dataset]) -> None:
    """Add the variables of `derived`, by group; what is there already stays. Each array appears whole."""
    with _scratch(path) as folder:
        for group, dataset in derived.items():
            _write(dataset, folder, group)
        for group in derived:
            if not _moved(folder / group, path / group):
                for array in sorted((folder / group).iterdir()):
                    if array.is_dir():
                        _moved(array, path / group / array.name)


def captured_arrays(path: Path, names: list[str]) -> dict[str, Any]:
    """The preallocated arrays, open for writing."""
    return {name: zarr.open_array(path, path=name, mode="r+").with_config({"write_empty_chunks": True}) for name in names}


def written(path: Path, names: list[str], n: int) -> NDArray[np.bool_]:
    """(sample,) True where every one of the arrays `names` has its file; nothing is read."""
    found = np.ones(n, dtype=bool)
    for name in names:
        meta = metadata(path / name)
        if 0 not in meta["shape"]:
            here = np.zeros(n, dtype=bool)
            here[[int(key.split(".")[1]) for key in _chunk_files(path / name)]] = True
            found &= here
    return found


def metadata(node: Path) -> dict[str, Any]:
    """What a group or array says of itself.

    Raises
    ------
    OSError, ValueError
        It is missing, or no JSON.
    """
    return json.loads((node / _META).read_text())


def finish(path: Path, changes: Mapping[str, Any]) -> None:
    """Sweep what killed writers left, then gather all metadata into the root together with attribute `changes`, in one rename."""
    for folder, _, files in os.walk(path):
        for name in files:
            if name.endswith(_UNFINISHED):
                Path(folder, name).unlink(missing_ok=True)
    # zarr.consolidate_metadata would need a second write for the attributes, and two processes that both seal could undo each other's
    nodes = {found.parent.relative_to(path).as_posix(): metadata(found.parent) for found in _nodes(path)}
    for node in nodes.values():
        if node["node_type"] == "group":
            node["consolidated_metadata"] = {**_CONSOLIDATED, "metadata": {}}
    root = metadata(path)
    root["attributes"] |= dict(changes)
    root["consolidated_metadata"] = {**_CONSOLIDATED, "metadata": nodes}
    unfinished = path / f"zarr.{uuid4().hex}{_UNFINISHED}"
    unfinished.write_text(json.dumps(root))
    unfinished.replace(path / _META)
    _sweep_scratch(path)


def damage(path: Path) -> str | None:
    """What a sealed store lacks of what its root lists, in words; None where nothing. No chunk is read."""
    for name, listed in metadata(path)["consolidated_metadata"]["metadata"].items():
        try:
            found = metadata(path / name)
        except OSError:
            return f"{listed['node_type']} {name!r} is missing"
        except ValueError:
            return f"the {_META} of {name!r} is no JSON"
        if found != {key: value for key, value in listed.items() if key != "consolidated_metadata"}:
            return f"the {_META} of {name!r} was changed"
        if listed["node_type"] == "array":
            grid = listed["chunk_grid"]["configuration"]["chunk_shape"]
            expected = math.prod(-(-length // chunk) for length, chunk in zip(listed["shape"], grid, strict=True))
            missing = expected - len(_chunk_files(path / name))
            if missing:
                return f"{name!r} lacks {missing} of its {expected} chunk files (missing or empty)"
    return None


def _nodes(path: Path) -> Iterator[Path]:
    for depth in ("*", "*/*"):
        yield from sorted(path.glob(f"{depth}/{_META}"))


def _chunk_files(array: Path) -> list[str]:
    """Names of an array's finished chunk files. An empty one, which a full disk or a lost cache leaves, would be read as fill values."""
    with os.scandir(array) as found:
        return [
            file.name
            for file in found
            if file.name.split(".")[0] == "c" and not file.name.endswith(_UNFINISHED) and file.stat().st_size > 0
        ]


def _write(dataset: xr.Dataset, folder: Path, group: str) -> None:
    shared = {"chunk_key_encoding": _KEYS, "compressors": (ZstdCodec(), Crc32cCodec())}
    encoding = {name: {"chunks": _chunks(variable), **shared} for name, variable in dataset.variables.items()}
    dataset.to_zarr(folder, group=group, mode="a", consolidated=False, zarr_format=3, write_empty_chunks=True, encoding=encoding)


def _chunks(variable: xr.Variable) -> tuple[int, ...]:
    """Whole rows, as many as make one moderate chunk."""
    if not variable.shape:
        return ()
    row = max(1, math.prod(variable.shape[1:]))
    rows = _ELEMENTS["number" if variable.dtype.kind in "biuf" else "text"] // row
    return tuple(max(1, length) for length in (min(max(1, rows), variable.shape[0]), *variable.shape[1:]))


def _allocate(folder: Path, name: str, planned: Planned) -> None:
    """One file per sample; an array of maps by layer has one chunk per layer inside it, so that a layer is read alone."""
    rest = tuple(max(1, length) for length in planned.shape[1:])
    by_layer = len(rest) >= 3 and 0 not in planned.shape
    dtype = np.dtype(planned.dtype)
    squeeze = [BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=dtype.itemsize)] if rest else []
    zarr.create_array(
        folder,
        name=name,
        shape=planned.shape,
        dtype=dtype,
        chunks=(1, 1, *rest[1:]) if by_layer else (1, *rest),
        shards=(1, *rest) if by_layer else None,
        compressors=[*squeeze, Crc32cCodec()],
        fill_value=planned.fill,
        dimension_names=planned.dims,
        attributes=dict(planned.attrs),
        chunk_key_encoding=_KEYS,  # type: ignore[arg-type]
        zarr_format=3,
    )


def _moved(source: Path, target: Path) -> bool:
    """Whether a folder could be put in place; it cannot where one stands already."""
    try:
        source.rename(target)
    except OSError:
        if not target.exists():
            raise
        return False
    return True


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A folder of this process beside the store, on the same disk, so that a rename is atomic."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent / f".{path.name}.{uuid4().hex}{_UNFINISHED}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep_scratch(path: Path) -> None:
    """Remove what killed processes left beside the store. A live one whose folder goes finds the store in place and uses it."""
    pattern = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{32}" + re.escape(_UNFINISHED))
    for found in path.parent.iterdir():
        if pattern.fullmatch(found.name):
            shutil.rmtree(found, ignore_errors=True)
