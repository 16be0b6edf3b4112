"""What AUROC of many maps costs: `interp.analysis.auroc` and a loop over scikit-learn's `roc_auc_score`, on the same maps.

    python -m experiments.performance.grounding --out results/performance/grounding

Writes into the folder:
    grounding.json   time ratio, scikit-learn to interp (median over interleaved rounds, with the 95 % bootstrap interval of that
                     median), the largest difference between the two, and every round's times
    grounding.md     the same as a table, with the machine

500 samples x 8 layers x 8 heads of 576 visual tokens, seeded; the evidence is a rectangle of the 24 x 24 grid, one per sample. Attention
comes in three forms: float32; float32 that was stored as float16 (so that many scores are tied); float64. One thread. The loop over
scikit-learn visits `--visit` of the 32,000 maps in each round, other ones each time, and its time is scaled up; `--visit 0` visits all.
Equality is checked on every map that a round visits.
"""

from __future__ import annotations

import os

# Before numpy: its linear algebra reads this once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import platform
import time
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
import sklearn
import xarray as xr
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from sklearn.metrics import roc_auc_score

import interp
from experiments.performance.ratios import ratio
from interp.analysis import auroc

FORMS = ("float32", "float16 on disk", "float64")
_SIDE = 24

app = cyclopts.App(name="grounding", help=__doc__)
_out = Console(soft_wrap=True)


def maps(form: str, n_samples: int, n_layers: int, n_heads: int, seed: int = 0) -> tuple[xr.DataArray, xr.DataArray]:
    """Attention (sample, layer, head, token) in one of `FORMS`, and the coverage (sample, token) of one rectangle each."""
    rng = np.random.default_rng(seed)
    covered = np.zeros((n_samples, _SIDE, _SIDE))
    for grid in covered:
        (y, x), (height, width) = rng.integers(0, _SIDE - 8, 2), rng.integers(1, 9, 2)
        grid[y : y + height, x : x + width] = 1.0
    coverage = covered.reshape(n_samples, -1)
    weights = np.exp(rng.normal(size=(n_samples, n_layers, n_heads, _SIDE**2)) + coverage[:, None, None])
    weights /= weights.sum(axis=-1, keepdims=True)
    attention = weights if form == "float64" else weights.astype(np.float16 if "float16" in form else np.float32)
    if "float16" in form:
        attention = attention.astype(np.float32)  # as a stored trace is read
    return xr.DataArray(attention, dims=("sample", "layer", "head", "token")), xr.DataArray(coverage, dims=("sample", "token"))


def loop(attention: NDArray[np.floating], coverage: NDArray[np.floating], chosen: NDArray[np.intp]) -> NDArray[np.float64]:
    """AUROC of the `chosen` maps, one call of scikit-learn each."""
    per_sample = attention.shape[1] * attention.shape[2]
    labels, rows = coverage > 0, attention.reshape(-1, attention.shape[-1])
    return np.array([roc_auc_score(labels[place // per_sample], rows[place]) for place in chosen])


def rounds(form: str, n_rounds: int, n_maps: int, shape: tuple[int, int, int], seed: int = 0) -> dict[str, Any]:
    """Seconds of both, per round, and the largest difference between them."""
    attention, coverage = maps(form, *shape, seed)
    rng = np.random.default_rng(seed)
    total = int(np.prod(shape))
    visited = total if n_maps == 0 else min(n_maps, total)
    mine, theirs, worst = [], [], 0.0
    for k in track(range(-1, n_rounds), description=form, console=Console(stderr=True), transient=True):  # round -1 warms up
        chosen = rng.permutation(total)[:visited]
        halves = np.array_split(chosen, 2)  # scikit-learn before and after, so that a drift of the machine's speed cancels
        start = time.perf_counter()
        before = loop(attention.values, coverage.values, halves[0])
        middle = time.perf_counter()
        found = auroc(attention, coverage)
        end = time.perf_counter()
        after = loop(attention.values, coverage.values, halves[1])
        spent = (middle - start) + (time.perf_counter() - end)
        worst = max(worst, float(np.abs(found.values.ravel()[chosen] - np.concatenate([before, after])).max()))
        if k >= 0:
            mine.append(end - middle)
            theirs.append(spent * total / visited)
    return {"interp, seconds": mine, "scikit-learn, seconds": theirs, "ratio": ratio(theirs, mine), "largest difference": worst}


@app.default
def main(
    *,
    samples: int = 500,
    layers: int = 8,
    heads: int = 8,
    n_rounds: int = 15,
    visit: int = 800,
    out: Path = Path("results/performance/grounding"),
) -> None:
    """Measure and write the table.

    Parameters
    ----------
    samples, layers, heads
        How many maps.
    n_rounds
        Interleaved rounds, after one that warms up.
    visit
        How many of them scikit-learn visits in a round; 0: all.
    out
        Folder to write.
    """
    shape = (samples, layers, heads)
    results = {form: rounds(form, n_rounds, visit, shape) for form in FORMS}
    machine = {
        "processor": platform.processor() or platform.machine(),
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "threads": os.environ["OMP_NUM_THREADS"],
        "maps": f"{samples} x {layers} x {heads} of {_SIDE**2} tokens",
        "visited by scikit-learn in a round": visit or samples * layers * heads,
        "rounds": n_rounds,
        "interp": interp.__version__,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "grounding.json").write_text(json.dumps({"machine": machine, "results": results}, indent=1), encoding="utf-8")
    text = table(results, machine)
    (out / "grounding.md").write_text(text, encoding="utf-8")
    _out.print(text, highlight=False, markup=False)


def table(results: dict[str, Any], machine: dict[str, Any]) -> str:
    """Results as Markdown."""
    lines = [
        "| attention | interp, s | scikit-learn loop, s | times faster, median [95 %] | largest difference |",
        "|---|---|---|---|---|",
    ]
    for form, found in results.items():
        mine, theirs = (float(np.median(found[f"{name}, seconds"])) for name in ("interp", "scikit-learn"))
        r = found["ratio"]
        lines.append(
            f"| {form} | {mine:.3f} | {theirs:.1f} | {r['median']:.0f} [{r['lower']:.0f}, {r['upper']:.0f}] | "
            f"{found['largest difference']:.1e} |"
        )
    return "\n".join([*lines, "", ", ".join(f"{k}: {v}" for k, v in machine.items())]) + "\n"


if __name__ == "__main__":
    app()
