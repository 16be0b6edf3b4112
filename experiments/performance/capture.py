"""What row capture costs: `interp.trace(..., answers=False)` and eager `output_attentions`, each against a plain sdpa forward.

    python -m experiments.performance.capture --out results/performance/capture

Writes into the folder:
    capture.json   per family, number of tokens and mode: time ratio to the plain forward (median over pairs, 95 % bootstrap interval
                   of it), peak memory above what was held before the call (MB, median over calls in a fresh process) and its ratio, and
                   every pair's times
    capture.md     the same as a table, with the machine

Times are wall-clock seconds of one prompt on the benchmark model of each family (text width 512, 8 layers, 8 heads, float32): the first
at every length, the others at one. The modes are timed in
turn within a round, in rotating order, and freed memory is given back before each. `interp.trace` is timed whole: encoding, the
forward pass, and the labelled dataset; its first-batch self-check is on. The plain forward starts from prepared inputs.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import cyclopts
import numpy as np
import torch
from rich.console import Console
from rich.progress import track

import interp
from experiments.performance.ratios import ratio
from interp.testing import TINY, bench_model, bench_samples

Mode = Literal["plain", "trace", "eager"]
MODES: tuple[Mode, ...] = get_args(Mode)
_WARM_UP = 2

app = cyclopts.App(name="capture", help=__doc__)
_out = Console(soft_wrap=True)


def runner(vlm: interp.VLM, n_tokens: int, mode: Mode) -> Callable[[], Any]:
    """A call that does one prompt of `n_tokens` in `mode`, with everything prepared that is not part of the measured work."""
    samples = bench_samples(vlm, n_tokens)
    if mode == "trace":
        return lambda: interp.trace(vlm, samples, answers=False, batch_size=1, progress=False)
    inputs = vlm.batch([vlm.encode(samples[0])])
    model = vlm.hf_model
    if mode == "plain":
        return lambda: model(**inputs, use_cache=False, logits_to_keep=1).logits

    def eager() -> torch.Tensor:
        kept = model(**inputs, use_cache=False, logits_to_keep=1, output_attentions=True).attentions
        return torch.stack([layer[:, :, -1] for layer in kept])

    return eager


def timed(vlm: interp.VLM, mode: Mode, call: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call; the attention implementation is switched outside the clock."""
    vlm.hf_model.set_attn_implementation({"text_config": "eager" if mode == "eager" else "sdpa"})
    with torch.no_grad():
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


def pairs(family: str, n_tokens: int, n_pairs: int) -> dict[Mode, list[float]]:
    """Seconds of every mode in `n_pairs` interleaved rounds, after warm-up."""
    vlm = bench_model(family)
    calls = {mode: runner(vlm, n_tokens, mode) for mode in MODES}
    seconds: dict[Mode, list[float]] = {mode: [] for mode in MODES}
    for k in track(range(-_WARM_UP, n_pairs), description=f"{family}, {n_tokens} tokens", console=Console(stderr=True), transient=True):
        turn = k % len(MODES)  # each mode follows each other one equally often
        for mode in MODES[turn:] + MODES[:turn] if k % 2 else (MODES[turn:] + MODES[:turn])[::-1]:
            gc.collect()
            _trim()
            spent = timed(vlm, mode, calls[mode])
            if k >= 0:
                seconds[mode].append(spent)
    return seconds


@app.command(show=False)
def peak(family: str, n_tokens: int, mode: Mode, *, calls: int = 3) -> None:
    """Print the median peak memory (MB) of one call above what was resident before it. Linux only."""
    vlm = bench_model(family)
    call = runner(vlm, n_tokens, mode)
    timed(vlm, mode, call)
    found = []
    for _ in range(calls):
        gc.collect()
        _trim()
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = _status("VmRSS")
        timed(vlm, mode, call)
        found.append((_status("VmHWM") - before) / 1024)
    sys.stdout.write(f"{float(np.median(found))}\n")


def _trim() -> None:
    """Give freed memory back to the system, so that a call cannot live on what an earlier one left."""
    library = ctypes.util.find_library("c")
    if library is not None:
        ctypes.CDLL(library).malloc_trim(0)


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])


def _peak_of(family: str, n_tokens: int, mode: Mode) -> float | None:
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, "-m", "experiments.performance.capture", "peak", family, str(n_tokens), mode]
    # Every block of 64 kB or more is mapped by itself and given back when freed. Otherwise what malloc keeps from one call serves the
    # next, and the peak above "what was held before" comes out anywhere between half and twice the memory used.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(64 << 10)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout.split()[-1])


@app.default
def main(
    *,
    families: tuple[str, ...] = TINY,
    tokens: tuple[int, ...] = (512, 2048, 4096),
    n_pairs: int = 15,
    out: Path = Path("results/performance/capture"),
    threads: int = 1,
) -> None:
    """Measure and write the table.

    Parameters
    ----------
    families
        Benchmark models; all but the first are measured at the middle one of the lengths only.
    tokens
        Prompt lengths.
    n_pairs
        Interleaved rounds per length, after warm-up; half of them for all but the first model.
    out
        Folder to write.
    threads
        Threads of torch.
    """
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    results: dict[str, dict[str, Any]] = {}
    for place, family in enumerate(families):
        lengths = tokens if place == 0 else tokens[len(tokens) // 2 : len(tokens) // 2 + 1]
        rounds = n_pairs if place == 0 else max(n_pairs // 2, 1)
        results[family] = {str(n_tokens): measure(family, n_tokens, rounds) for n_tokens in lengths}
    machine = {
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": threads,
        "pairs": n_pairs,
        "interp": interp.__version__,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "capture.json").write_text(json.dumps({"machine": machine, "results": results}, indent=1), encoding="utf-8")
    text = table(results, machine)
    (out / "capture.md").write_text(text, encoding="utf-8")
    _out.print(text, highlight=False, markup=False)


def measure(family: str, n_tokens: int, n_pairs: int) -> dict[Mode, Any]:
    """Times and memory of every mode, and their ratios to the plain forward."""
    seconds = pairs(family, n_tokens, n_pairs)
    memory = {mode: _peak_of(family, n_tokens, mode) for mode in MODES}
    return {
        mode: {
            "seconds": seconds[mode],
            "time ratio": ratio(seconds[mode], seconds["plain"]),
            "peak MB": memory[mode],
            "memory ratio": _quotient(memory[mode], memory["plain"]),
        }
        for mode in MODES
    }


def _quotient(mine: float | None, plain: float | None) -> float | None:
    return mine / plain if mine is not None and plain else None


def table(results: dict[str, Any], machine: dict[str, Any]) -> str:
    """Results as Markdown."""
    lines = [
        "| family | tokens | mode | time / plain sdpa forward, median [95 %] | peak memory, MB | peak / plain |",
        "|---|---|---|---|---|---|",
    ]
    names = {"plain": "plain sdpa forward", "trace": "interp.trace(answers=False)", "eager": "eager, output_attentions"}
    measured = ((family, n, mode, cells) for family, of in results.items() for n, modes in of.items() for mode, cells in modes.items())
    for family, n_tokens, mode, cells in measured:
        r, mb, mr = cells["time ratio"], cells["peak MB"], cells["memory ratio"]
        took = "1" if mode == "plain" else f"{r['median']:.2f} [{r['lower']:.2f}, {r['upper']:.2f}]"
        memory = f"{'' if mb is None else f'{mb:.0f}'} | {'' if mr is None else f'{mr:.2f}'}"
        lines.append(f"| {family} | {n_tokens} | {names[mode]} | {took} | {memory} |")
    return "\n".join([*lines, "", ", ".join(f"{k}: {v}" for k, v in machine.items())]) + "\n"


if __name__ == "__main__":
    app()
