"""Peak memory of every analysis on a stored trace that is larger than memory should have to be.

    python -m experiments.performance.analysis_memory --out results/performance/analysis_memory

Writes into the folder:
    analysis_memory.json   per analysis: peak memory above import (MB) and seconds, at the size that was measured, and at the wanted size
                           if that is larger (extrapolated, see below)
    analysis_memory.md     the same as a table, with the sizes and the machine

The store is synthetic, planted traces in the format that `interp.trace` writes, and is opened as any other (`interp.open_trace`, which
checks it against the schema): attention (sample, layer, head, token) in half precision, one shard per sample and one chunk per layer,
with the labels, regions and scores that analyses read. By default it has 2,000 samples x 28 layers x 28 heads x 1,200 tokens (3.8 GB of
attention), or as many samples as three quarters of the free disk hold; where that is fewer than `--samples`, each peak is also
extrapolated along the line through it and the peak at half as many samples. Each analysis runs in a process of its own; its peak is the
largest resident memory (VmHWM) above what was resident once everything was imported and the store was open. Linux only.
"""

from __future__ import annotations

import os

# Before numpy: its linear algebra reads this once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import math
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
import xarray as xr
import zarr
from rich.console import Console
from rich.progress import track
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.errors import ZarrUserWarning

import interp
from interp import analysis
from interp.errors import InterpError
from interp.findings import analyse

LIMIT = 2048.0  # MB above import
_CHUNK = {"text": 1 << 16, "number": 1 << 18}  # elements of what is stored beside the attention
_KEYS: dict[str, Any] = {"name": "default", "configuration": {"separator": "."}}
_FEATURES = 4096  # of one region, as wide as a 7B model

_TEXT = np.dtypes.StringDType()

app = cyclopts.App(name="analysis_memory", help=__doc__)
_out = Console(soft_wrap=True)


def _profile(ds: xr.Dataset) -> analysis.Profile:
    """A profile of the middle layers, as if fitted elsewhere."""
    n = ds.sizes["layer"]
    identity = {key: str(ds.attrs.get(key, "")) for key in ("model", "revision", "prompt_order")}
    return analysis.Profile(tuple(range(n // 2, n)[:3]), (0.5,) * n, (), ("elsewhere",), 0.1, "any", 0, identity)


def _per_head(ds: xr.Dataset, *more: int) -> xr.DataArray:
    """Numbers in the shape of an analysis by head, to be split by answers: their origin does not matter for memory."""
    shape = (*(ds.sizes[dim] for dim in ("sample", "layer", "head")), *more)
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    return xr.DataArray(values, dims=("sample", "layer", "head", "section")[: len(shape)], coords={"sample": ds["sample"]})


def _answers(ds: xr.Dataset) -> xr.Dataset:
    """Answers of ten methods, scored at random."""
    scores = np.random.default_rng(0).integers(0, 2, (10, ds.sizes["sample"])).astype(float)
    return xr.Dataset({"exact_match": (("method", "sample"), scores)}, {"method": ["base", *"abcdefghi"], "image_id": ds["image_id"]})


def _read(ds: xr.Dataset) -> xr.Dataset:
    """A probe fitted on a few pictures, applied to features as large as those of every region."""
    shape = (*ds["evidence_text"].shape, _FEATURES)
    features = xr.Dataset(
        {"features": (("sample", "region", "feature"), np.random.default_rng(0).random(shape, dtype=np.float32))},
        {
            "region_text": (("sample", "region"), ds["evidence_text"].values),
            "region_role": (("sample", "region"), ds["evidence_role"].values),
            "sample": ds["sample"],
            "image_id": ds["image_id"],
        },
    )
    few = features.isel(sample=slice(40))
    names = np.array([f"elsewhere-{k}" for k in range(few.sizes["sample"])])
    return analysis.readable(analysis.fit_probe(few.assign_coords(image_id=("sample", names))), features)


ANALYSES: dict[str, Callable[[xr.Dataset], Any]] = {
    "visibility": analysis.visibility,
    "segment_mass": analysis.segment_mass,
    "auroc": lambda ds: analysis.auroc(ds["attention"], ds["coverage"]),
    "rapt, layers": analysis.rapt,
    "rapt, heads": lambda ds: analysis.rapt(ds, level="head"),
    "grounding, layers": analysis.grounding,
    "grounding, heads": lambda ds: analysis.grounding(ds, level="head"),
    "profile_layers": analysis.profile_layers,
    "profiled_map": lambda ds: analysis.profiled_map(ds, _profile(ds)),
    "by_correctness, heads": lambda ds: analysis.by_correctness(_per_head(ds), ds),
    "by_correctness, heads x 9 sections, in strata": lambda ds: analysis.by_correctness(
        _per_head(ds, 9), ds, strata=["card_size", "contrast"]
    ),
    "mean_interval, heads x 9 sections": lambda ds: analysis.mean_interval(_per_head(ds, 9), ds["image_id"]),
    "by_grounding_quality": lambda ds: analysis.by_grounding_quality(ds["exact_match"], ds["entropy"] / 10, ds["image_id"], (0, 0.5, 1)),
    "seen": lambda ds: analysis.seen(ds, _profile(ds)),
    "readable": _read,
    "disconnect": lambda ds: analysis.disconnect(ds, _profile(ds)),
    "disconnect, map given": lambda ds: analysis.disconnect(ds, _profile(ds), map=analysis.profiled_map(ds, _profile(ds))),
    "compare, ten methods": lambda ds: analysis.compare(_answers(ds)),
    "all of interp analyze": lambda ds: analyse(ds, _profile(ds)),
}


def write_store(path: Path, n: int, layers: int, heads: int, tokens: int, seed: int = 0) -> int:
    """Write the synthetic store and return its tokens per sample, at most `tokens`.

    Attention is drawn for a few samples and repeated: what is read costs the same.

    Raises
    ------
    InterpError
        `tokens` leaves no room for a picture.
    """
    from interp.testing import planted  # brings torch, which the measured processes should not hold

    words = planted(n=1, side=1).sizes["token"] - 1
    side = int(max(tokens - words, 0) ** 0.5)
    if side < 2:
        raise InterpError(f"tokens={tokens} leaves no room for a picture; use {words + 4} or more.")
    ds = planted(n=n, n_layers=1, n_heads=1, side=side, seed=seed).drop_dims(["layer", "head"])
    ds = ds.assign_coords(layer=np.arange(layers), head=np.arange(heads), layer_kind=("layer", np.full(layers, "full").astype(_TEXT)))
    ds = ds.assign_attrs(versions="{}", settings_hash="")
    width = ds.sizes["token"]
    attrs = {"interp": "trace", "identity": {}, "resume": "nothing", "captured": ["trace/attention"], "sealed": True}
    zarr.create_group(path, zarr_format=3, attributes=attrs)
    shared = {"chunk_key_encoding": _KEYS, "compressors": (ZstdCodec(), Crc32cCodec())}
    encoding = {name: {"chunks": _chunks(variable), **shared} for name, variable in ds.variables.items()}
    ds.to_zarr(path, group="trace", mode="a", consolidated=False, zarr_format=3, write_empty_chunks=True, encoding=encoding)
    stored = zarr.create_array(
        path,
        name="trace/attention",
        shape=(n, layers, heads, width),
        dtype="float16",
        chunks=(1, 1, heads, width),
        shards=(1, layers, heads, width),
        compressors=[BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=2), Crc32cCodec()],
        fill_value=float("nan"),
        dimension_names=("sample", "layer", "head", "token"),
        chunk_key_encoding=_KEYS,  # type: ignore[arg-type]
    )
    rng = np.random.default_rng(seed)
    drawn = np.exp(rng.normal(size=(4, layers, heads, width), scale=2).astype(np.float32))
    drawn = (drawn / drawn.sum(axis=-1, keepdims=True)).astype(np.float16)
    for sample in track(range(n), description="writing the store", console=Console(stderr=True), transient=True):
        stored[sample] = drawn[sample % len(drawn)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part", category=ZarrUserWarning)
        zarr.consolidate_metadata(path)
    return width


def _chunks(variable: xr.Variable) -> tuple[int, ...]:
    """Whole rows, as many as make one moderate chunk."""
    row = max(1, math.prod(variable.shape[1:]))
    rows = max(1, _CHUNK["number" if variable.dtype.kind in "biuf" else "text"] // row)
    return (min(rows, variable.shape[0]), *variable.shape[1:])


@app.command(show=False)
def peak(path: Path, name: str, n: int) -> None:
    """Write the peak memory (MB above import) and the seconds of one analysis of the first `n` samples."""
    ds = interp.open_trace(path).isel(sample=slice(n))
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, start = _status("VmRSS"), time.perf_counter()
    ANALYSES[name](ds)
    sys.stdout.write(f"{(_status('VmHWM') - before) / 1024} {time.perf_counter() - start}\n")


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])


def _measure(path: Path, name: str, n: int) -> tuple[float, float]:
    command = [sys.executable, "-m", "experiments.performance.analysis_memory", "peak", str(path), name, str(n)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    megabytes, seconds = done.stdout.split()[-2:]
    return float(megabytes), float(seconds)


@app.default
def main(
    *,
    samples: int = 2000,
    layers: int = 28,
    heads: int = 28,
    tokens: int = 1200,
    only: tuple[str, ...] = (),
    scratch: Path | None = None,
    out: Path = Path("results/performance/analysis_memory"),
) -> None:
    """Write the store, measure, write the table, delete the store.

    Parameters
    ----------
    samples, layers, heads, tokens
        The wanted size; of tokens at most so many, because pictures are square. 200 samples show whether it works; the peaks of a larger
        store differ little.
    only
        Analyses to run; all by default.
    scratch
        Folder for the store; the system's folder for temporary files by default.
    out
        Folder to write.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        per_sample = 2 * layers * heads * tokens + 100 * tokens  # random attention does not compress; labels do, this is their upper end
        fits = int(0.75 * shutil.disk_usage(folder).free / per_sample)
        n = min(samples, fits)
        path = Path(folder) / "trace.zarr"
        width = write_store(path, n, layers, heads, tokens)
        results: dict[str, dict[str, float]] = {}
        for name in track(only or tuple(ANALYSES), description="measuring", console=Console(stderr=True), transient=True):
            megabytes, seconds = _measure(path, name, n)
            results[name] = {"peak MB": megabytes, "seconds": seconds}
            if n < samples:
                half, _ = _measure(path, name, n // 2)
                results[name]["extrapolated MB"] = max(megabytes, megabytes + (megabytes - half) / (n - n // 2) * (samples - n))
    machine = {
        "store": f"{n} samples x {layers} layers x {heads} heads x {width} tokens, float16, {n * per_sample / 1e9:.2f} GB",
        "wanted": f"{samples} samples" + ("" if n == samples else ": did not fit the disk, so peaks are extrapolated"),
        "limit": f"{LIMIT:.0f} MB above import",
        "processor": platform.processor() or platform.machine(),
        "numpy": np.__version__,
        "xarray": xr.__version__,
        "interp": interp.__version__,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "analysis_memory.json").write_text(json.dumps({"machine": machine, "results": results}, indent=1), encoding="utf-8")
    text = table(results, machine)
    (out / "analysis_memory.md").write_text(text, encoding="utf-8")
    _out.print(text, highlight=False, markup=False)


def table(results: dict[str, dict[str, float]], machine: dict[str, Any]) -> str:
    """Results as Markdown."""
    extrapolated = any("extrapolated MB" in found for found in results.values())
    more = " extrapolated to the wanted size, MB |" if extrapolated else ""
    lines = [
        f"| analysis | peak above import, MB |{more} under the limit | seconds |",
        f"|---|---|{'---|' if extrapolated else ''}---|---|",
    ]
    for name, found in results.items():
        worst = found.get("extrapolated MB", found["peak MB"])
        more = f" {worst:.0f} |" if extrapolated else ""
        lines.append(f"| {name} | {found['peak MB']:.0f} |{more} {'yes' if worst < LIMIT else 'NO'} | {found['seconds']:.1f} |")
    return "\n".join([*lines, "", *(f"- {key}: {value}" for key, value in machine.items())]) + "\n"


if __name__ == "__main__":
    app()
