"""Peak memory of every analysis on a stored trace that is larger than memory should have to be.

    python -m experiments.performance.analysis_memory --out results/performance/analysis_memory

Writes into the folder:
    analysis_memory.json   per analysis: peak memory above import (MB) and seconds, at the size that was measured, and at the wanted size
                           if that is larger (extrapolated, see below)
    analysis_memory.md     the same as a table, with the sizes and the machine

The store is synthetic: attention (sample, layer, head, token) in half precision, one shard per sample and one chunk per layer, as
`interp.trace` writes it, with the labels, regions and scores that analyses read. By default it has 2,000 samples x 28 layers x 28 heads
x 1,200 tokens (3.8 GB of attention), or as many samples as three quarters of the free disk hold; where that is fewer than `--samples`,
each peak is also extrapolated along the line through it and the peak at half as many samples. Each analysis runs in a process of its own;
its peak is the largest resident memory (VmHWM) above what was resident once everything was imported and the store was open. Linux only.
"""

from __future__ import annotations

import os

# Before numpy: its linear algebra reads this once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
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
from zarr.codecs import BloscCodec
from zarr.errors import ZarrUserWarning

import interp
from interp import analysis

LIMIT = 2048.0  # MB above import
_PICTURE = (640, 480)
_TEXT = {"template": 4, "question": 60, "instruction": 112}  # tokens around the picture's; as long as the paper's base prompt
_SEGMENTS = ("system", "image", "question", "instruction", "template")
_CHUNK = 64 << 20  # bytes of one dask chunk, as a stored trace is opened

app = cyclopts.App(name="analysis_memory", help=__doc__)
_out = Console(soft_wrap=True)


def _profile(ds: xr.Dataset) -> analysis.Profile:
    """A profile of the middle layers, as if fitted elsewhere."""
    n = ds.sizes["layer"]
    identity = {key: str(ds.attrs.get(key, "")) for key in ("model", "revision", "prompt_order")}
    return analysis.Profile(tuple(range(n // 2, n // 2 + 3)), (0.5,) * n, (), ("elsewhere",), 0.1, "any", 0, identity)


def _per_head(ds: xr.Dataset, *more: int) -> xr.DataArray:
    """Numbers in the shape of an analysis by head, to be split by answers: their origin does not matter for memory."""
    shape = (*(ds.sizes[dim] for dim in ("sample", "layer", "head")), *more)
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    return xr.DataArray(values, dims=("sample", "layer", "head", "section")[: len(shape)], coords={"sample": ds["sample"]})


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
    "disconnect": lambda ds: analysis.disconnect(ds, _profile(ds)),
}


def write_store(path: Path, n: int, layers: int, heads: int, tokens: int, seed: int = 0) -> None:
    """The synthetic store. Attention is drawn for a few samples and repeated: what is read costs the same."""
    rng = np.random.default_rng(seed)
    static = _static(rng, n, layers, heads, tokens)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part", category=ZarrUserWarning)
        static.to_zarr(path, mode="w-", consolidated=False, zarr_format=3)
        stored = zarr.open_group(path, mode="r+").create_array(
            "attention",
            shape=(n, layers, heads, tokens),
            dtype="float16",
            chunks=(1, 1, heads, tokens),
            shards=(1, layers, heads, tokens),
            compressors=[BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=2)],
            fill_value=float("nan"),
            dimension_names=("sample", "layer", "head", "token"),
        )
        drawn = np.exp(rng.normal(size=(4, layers, heads, tokens), scale=2).astype(np.float32))
        drawn = (drawn / drawn.sum(axis=-1, keepdims=True)).astype(np.float16)
        for sample in track(range(n), description="writing the store", console=Console(stderr=True), transient=True):
            stored[sample] = drawn[sample % len(drawn)]
        zarr.consolidate_metadata(path)


def _static(rng: np.random.Generator, n: int, layers: int, heads: int, tokens: int) -> xr.Dataset:
    """What a trace holds beside its attention: a grid of visual tokens, five regions, scores and knobs."""
    grid = max(2, int((tokens - sum(_TEXT.values())) ** 0.5))
    visual = grid**2
    segment = np.full(tokens, _SEGMENTS.index("instruction"), dtype=np.int8)
    segment[:2] = segment[-2:] = _SEGMENTS.index("template")
    segment[2 : 2 + visual] = _SEGMENTS.index("image")
    segment[2 + visual : 2 + visual + _TEXT["question"]] = _SEGMENTS.index("question")
    at = segment == _SEGMENTS.index("image")
    row, col = (np.where(at, 0, -1).astype(np.int32) for _ in range(2))
    row[at], col[at] = np.divmod(np.arange(at.sum()), grid)
    cell = np.array(_PICTURE) / grid
    box = np.where(at[:, None], np.stack([col, row, col + 1, row + 1], axis=-1) * np.tile(cell, 2), np.nan)
    low = rng.uniform(0, 0.8, (n, 5, 2)) * _PICTURE
    regions = np.concatenate([low, low + rng.uniform(0.05, 0.2, (n, 5, 2)) * _PICTURE], axis=-1)
    first = regions[:, None, 0]
    overlap = np.clip(np.minimum(first[..., 2:], box[:, 2:]) - np.maximum(first[..., :2], box[:, :2]), 0, None).prod(axis=-1)
    text = np.dtypes.StringDType()
    each = {"segment": segment, "row": row, "col": col, "view": np.where(at, 0, -1).astype(np.int32)}
    each |= {"image_index": each["view"], "token_id": np.arange(tokens)}
    coords = {name: (("sample", "token"), np.tile(values, (n, 1))) for name, values in each.items()}
    ds = xr.Dataset(
        {
            "coverage": (("sample", "token"), overlap / cell.prod()),
            "evidence_box": (("sample", "evidence", "corner"), regions),
            "evidence_image": (("sample", "evidence"), np.zeros((n, 5), dtype=np.int32)),
            "evidence_role": (("sample", "evidence"), np.tile(np.array(["evidence", "anchor", *["distractor"] * 3], dtype=text), (n, 1))),
            "evidence_text": (("sample", "evidence"), rng.integers(0, 10, (n, 5)).astype(str).astype(text)),
            "image_size": (("sample", "image", "axis"), np.tile(np.array(_PICTURE, dtype=np.int32), (n, 1, 1))),
            "exact_match": ("sample", (rng.random(n) < 0.6).astype(float)),
            "entropy": ("sample", rng.random(n)),
        },
        coords={
            **coords,
            "token_box": (("sample", "token", "corner"), np.tile(box, (n, 1, 1))),
            "token_text": (("sample", "token"), np.tile(np.array([f"word{k}" for k in range(tokens)], dtype=text), (n, 1))),
            "n_token": ("sample", np.full(n, tokens)),
            "sample": np.array([f"synthetic-{k}" for k in range(n)], dtype=text),
            "image_id": ("sample", np.array([f"picture-{k // 2}" for k in range(n)], dtype=text)),
            "visibility": ("sample", np.full(n, "visible", dtype=text)),
            "layer": np.arange(layers),
            "head": np.arange(heads),
            "knob_card_size": ("sample", rng.random(n)),
            "knob_contrast": ("sample", rng.random(n)),
            "knob_absent": ("sample", np.zeros(n, dtype=bool)),
        },
        attrs={"model": "synthetic", "revision": "", "prompt": "base", "prompt_order": "image-first", "benchmark": "synthetic"},
    )
    ds["segment"].attrs = {"flag_values": list(range(len(_SEGMENTS))), "flag_meanings": " ".join(_SEGMENTS)}
    return ds


def open_store(path: Path, n: int | None = None) -> xr.Dataset:
    """The first `n` samples, lazily, attention as float32 in chunks of some samples."""
    ds = xr.open_zarr(path, chunks=None, consolidated=True).isel(sample=slice(n))
    per_sample = 4 * ds["attention"].size // ds.sizes["sample"]
    attention = ds["attention"].chunk({"sample": max(1, _CHUNK // per_sample)}).astype(np.float32)
    return ds.assign(attention=attention)


@app.command(show=False)
def peak(path: Path, name: str, n: int) -> None:
    """Write the peak memory (MB above import) and the seconds of one analysis of the first `n` samples."""
    ds = open_store(path, n)
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
        The wanted size. 200 samples show whether it works; the peaks of a larger store differ little.
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
        write_store(path, n, layers, heads, tokens)
        results: dict[str, dict[str, float]] = {}
        for name in track(only or tuple(ANALYSES), description="measuring", console=Console(stderr=True), transient=True):
            megabytes, seconds = _measure(path, name, n)
            results[name] = {"peak MB": megabytes, "seconds": seconds}
            if n < samples:
                half, _ = _measure(path, name, n // 2)
                results[name]["extrapolated MB"] = max(megabytes, megabytes + (megabytes - half) / (n - n // 2) * (samples - n))
    machine = {
        "store": f"{n} samples x {layers} layers x {heads} heads x {tokens} tokens, float16, {n * per_sample / 1e9:.2f} GB",
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
