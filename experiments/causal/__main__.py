"""Runs the causal study; see the package."""

from __future__ import annotations

import time
from pathlib import Path

import cyclopts
from rich.console import Console

import experiments.causal as package
from experiments.causal import answers, evidence, heads
from experiments.causal.material import prepare
from interp import plots

app = cyclopts.App(name="causal", help=package.__doc__)
_out = Console(soft_wrap=True)

_NOTE = (
    "These figures are of a small model trained on this benchmark: they show that the tools work and that an effect can occur, and are no "
    "evidence about released checkpoints."
)


@app.default
def main(
    *,
    model: str = "demo/llava",
    benchmark: str = "digits",
    limit: int = 300,
    n_reference: int = 100,
    n_train: int = 1500,
    window: int = 3,
    batch_size: int = 32,
    out: Path = Path("results/causal"),
) -> None:
    """Run every part and write tables, figures and the summary.

    Parameters
    ----------
    model
        A model that ships with the package, a local directory, or a Hugging Face id.
    benchmark
        One whose scenes can be redrawn with another answer.
    limit
        Samples of the split `test`.
    n_reference
        Samples that means of heads are taken over.
    n_train
        Training samples of the probes.
    window
        Layers that a knock-out covers (9 is usual for models of about 32 layers).
    batch_size
        Samples per forward pass.
    out
        Folder to write.
    """
    start = time.perf_counter()
    material = prepare(model, benchmark, limit, n_reference, batch_size, out)
    figures, sentences, seconds = {}, [], {}

    def note(part: str) -> None:
        seconds[part] = time.perf_counter() - start - sum(seconds.values())
        _out.print(f"{part}: {seconds[part]:.0f} s", highlight=False)

    note("traces")
    found = heads.study(material)
    figures |= found.figures
    sentences += found.sentences
    note("heads")
    sentences += heads.ablations(material, found.grounding)
    note("ablations")
    sentences += heads.masking(material, found.grounding)
    note("masking")
    drawn, said = evidence.knocked(material, window)
    figures |= drawn
    sentences += said
    note("knock-out")
    drawn, said = evidence.patched(material)
    figures |= drawn
    sentences += said
    note("patching")
    sentences += evidence.refocused(material, window)
    note("before and after VEA")
    drawn, said = answers.there(material, benchmark, n_train)
    figures |= drawn
    sentences += said
    note("probes")
    _, notes = plots.save(figures, out)
    attrs = material.ds.attrs
    exact = float(material.ds["exact_match"].mean())
    head = (
        f"# Causal studies: {attrs['model']}\n\nModel {attrs['model']} ({attrs['revision']}), benchmark {attrs['benchmark']}, split "
        f"{attrs['split']}, n = {material.ds.sizes['sample']}, {material.wrong} wrong answers to answerable questions; exact match "
        f"{exact:.3f}. "
        f"Profiled layers {list(material.profile.layers)}. Time: {(time.perf_counter() - start) / 60:.0f} min "
        f"({', '.join(f'{part} {spent:.0f} s' for part, spent in seconds.items())}). {_NOTE}\n\n"
    )
    body = "\n".join(f"- {sentence}" for sentence in sentences)
    (out / "summary.md").write_text(head + body + "\n\nIntervals: 95 % bootstrap over pictures.\n", encoding="utf-8")
    for line in notes:
        _out.print(line)
    _out.print(f"wrote {out / 'summary.md'}", highlight=False)


if __name__ == "__main__":
    app()
