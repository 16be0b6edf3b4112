"""What `head_sweep` costs: every head of a model ablated at the last prompt token, against a plain sdpa forward and the naive loop.

    python -m experiments.performance.head_sweep --out results/performance/head_sweep

Writes into the folder:
    head_sweep.json   per number of prompt tokens and length T of the reference: time ratios (median over rounds, 95 % bootstrap interval
                      of it) of the sweep to one plain forward, and of the naive loop to the sweep; and every round's times
    head_sweep.md     the same as a table, with the machine

The sweep is `interp.interventions.head_sweep` of one sample, timed whole: encoding, prefill, the model's own answer, the teacher-forced
reference of T tokens and the end token (T + 1 steps in every branch), and the labelled dataset. A random model never ends its answer, so
it is cut off at T tokens. The plain forward starts from prepared inputs and gives the last logits only.
The naive loop is one nnsight trace per head in which the head's slice of the output projection's input is set to zero, over the prompt
and the reference's tokens. In each round it runs `naive_heads` heads, other ones each time, and its time is scaled to all heads. What is
compared is timed in turn within a round, in rotating order.

With a GPU, `--device cuda --shape qwen2.5-vl-7b` measures at the real shape of a large model (28 layers of 28 heads, random weights in
bfloat16); weights are drawn on the CPU first, which takes minutes and 50 GB of memory.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import cyclopts
import numpy as np
import torch
from rich.console import Console
from rich.progress import track

import interp
from experiments.performance.ratios import ratio
from interp.interventions import head_sweep
from interp.testing import bench_model, bench_samples, tiny_vlm

Shape = Literal["bench", "qwen2.5-vl-7b"]
_LARGE: dict[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152_064,
}
_WORDS = "one two three four five six seven eight nine"
_WARM_UP = 1

app = cyclopts.App(name="head_sweep", help=__doc__)
_out = Console(soft_wrap=True)


def model_of(shape: Shape, device: str) -> interp.VLM:
    """The model to measure on."""
    vlm = bench_model() if shape == "bench" else tiny_vlm("qwen2_5_vl", dtype=torch.bfloat16, **_LARGE)
    vlm.hf_model.to(device)
    return vlm


def asked(vlm: interp.VLM, n_tokens: int, length: int) -> interp.Sample:
    """A sample whose prompt has `n_tokens` tokens and whose reference has `length`."""
    sample = bench_samples(vlm, n_tokens)[0]
    words = " ".join(_WORDS.split()[:length])
    return interp.Sample(sample.id, sample.images, sample.question, words, image_id=sample.image_id)


def plain(vlm: interp.VLM, sample: interp.Sample) -> Callable[[], Any]:
    """A call of one forward pass over the prompt."""
    inputs = vlm.batch([vlm.encode(sample)])
    return lambda: vlm.hf_model(**inputs, use_cache=False, logits_to_keep=1).logits


def naive(vlm: interp.VLM, sample: interp.Sample, places: Sequence[tuple[int, int]]) -> Callable[[], Any]:
    """A call of one nnsight trace per head over the prompt and the reference, from prepared inputs."""
    inputs = vlm.batch([vlm.encode(sample)])
    answer = vlm.processor.tokenizer(sample.references[0], add_special_tokens=False, return_tensors="pt")["input_ids"].to(vlm.device)
    shape, last = inputs["input_ids"].shape, inputs["input_ids"].shape[1] - 1
    for name, value in inputs.items():
        if value.shape == shape and not value.is_floating_point():
            more = answer if name == "input_ids" else torch.full_like(answer, int(name == "attention_mask"))
            inputs[name] = torch.cat([value, more], dim=1)
    layers, width = vlm.wrapper.model.language_model.layers, vlm.hf_model.model.language_model.layers[0].self_attn.head_dim
    arguments = {**inputs, "use_cache": False, "logits_to_keep": answer.shape[1] + 1}

    def loop() -> list[Any]:
        found = []
        for layer, head in places:
            with vlm.wrapper.trace(**arguments):
                layers[layer].self_attn.o_proj.input[:, last, head * width : (head + 1) * width] = 0
                logits = vlm.wrapper.lm_head.output.save()
            found.append(logits.float().log_softmax(-1))
        return found

    return loop


def timed(vlm: interp.VLM, call: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call, a GPU's work included."""
    gc.collect()
    with torch.no_grad():
        _wait(vlm)
        start = time.perf_counter()
        call()
        _wait(vlm)
        return time.perf_counter() - start


def _wait(vlm: interp.VLM) -> None:
    if vlm.device.type == "cuda":
        torch.cuda.synchronize()


def rounds(vlm: interp.VLM, n_tokens: int, length: int, n_rounds: int, naive_heads: int) -> dict[str, list[float]]:
    """Seconds of the plain forward, the sweep and the (scaled) naive loop in interleaved rounds, after warm-up."""
    sample = asked(vlm, n_tokens, length)
    places = [(layer, head) for layer in range(vlm.n_layers) for head in range(vlm.n_heads)]
    drawn = np.random.default_rng(0).permutation(len(places))
    share = min(naive_heads, len(places))
    seconds: dict[str, list[float]] = {"plain": [], "sweep": [], "naive": []}
    title = f"{n_tokens} tokens, T = {length}"
    for k in track(range(-_WARM_UP, n_rounds), description=title, console=Console(stderr=True), transient=True):
        some = [places[i] for i in np.roll(drawn, -k * share)[: share if k >= 0 else 1]]
        calls: dict[str, Callable[[], Any]] = {
            "plain": plain(vlm, sample),
            "sweep": lambda: head_sweep(vlm, [sample], max_new_tokens=length, progress=False),
            "naive": naive(vlm, sample, some),
        }
        turn = k % len(calls)
        for name in [*calls][turn:] + [*calls][:turn]:
            spent = timed(vlm, calls[name])
            if k >= 0:
                seconds[name].append(spent * (len(places) / len(some) if name == "naive" else 1))
    return seconds


@app.default
def main(
    *,
    tokens: tuple[int, ...] = (512, 2048),
    lengths: tuple[int, ...] = (1, 3),
    n_rounds: int = 8,
    naive_heads: int = 8,
    shape: Shape = "bench",
    device: str = "cpu",
    out: Path = Path("results/performance/head_sweep"),
    threads: int = 1,
) -> None:
    """Measure and write the table.

    Parameters
    ----------
    tokens
        Prompt lengths.
    lengths
        Reference lengths T.
    n_rounds
        Interleaved rounds per prompt and reference, after warm-up.
    naive_heads
        Heads that the naive loop runs in a round.
    shape
        The benchmark model, or the shape of a large one.
    device
        Where the model is.
    out
        Folder to write.
    threads
        Threads of torch.
    """
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    vlm = model_of(shape, device)
    results = {str(n): {str(length): measure(vlm, n, length, n_rounds, naive_heads) for length in lengths} for n in tokens}
    machine = {
        "machine": torch.cuda.get_device_name() if vlm.device.type == "cuda" else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": threads,
        "model": f"{shape} ({vlm.n_layers} layers of {vlm.n_heads} heads, {str(vlm.dtype).removeprefix('torch.')})",
        "rounds": n_rounds,
        "heads of the naive loop per round": min(naive_heads, vlm.n_layers * vlm.n_heads),
        "interp": interp.__version__,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "head_sweep.json").write_text(json.dumps({"machine": machine, "results": results}, indent=1), encoding="utf-8")
    text = table(results, machine)
    (out / "head_sweep.md").write_text(text, encoding="utf-8")
    _out.print(text, highlight=False, markup=False)


def measure(vlm: interp.VLM, n_tokens: int, length: int, n_rounds: int, naive_heads: int) -> dict[str, Any]:
    """Times of all rounds and their ratios; on a GPU also the sweep's peak memory above the weights."""
    seconds = rounds(vlm, n_tokens, length, n_rounds, naive_heads)
    found: dict[str, Any] = {
        "seconds": seconds,
        "sweep / plain": ratio(seconds["sweep"], seconds["plain"]),
        "naive / sweep": ratio(seconds["naive"], seconds["sweep"]),
    }
    if vlm.device.type == "cuda":
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        head_sweep(vlm, [asked(vlm, n_tokens, length)], max_new_tokens=length, progress=False)
        found["peak GB"] = (torch.cuda.max_memory_allocated() - held) / 1e9
    return found


def table(results: dict[str, Any], machine: dict[str, Any]) -> str:
    """Results as Markdown."""
    lines = [
        "| prompt tokens | reference tokens T | sweep / plain sdpa forward, median [95 %] | naive loop / sweep, median [95 %] |",
        "|---|---|---|---|",
    ]
    for n_tokens, by_length in results.items():
        for length, found in by_length.items():
            cells = [f"{r['median']:.2f} [{r['lower']:.2f}, {r['upper']:.2f}]" for r in (found["sweep / plain"], found["naive / sweep"])]
            lines.append(f"| {n_tokens} | {length} | {cells[0]} | {cells[1]} |")
    return "\n".join([*lines, "", ", ".join(f"{k}: {v}" for k, v in machine.items())]) + "\n"


if __name__ == "__main__":
    app()
