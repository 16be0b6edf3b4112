"""From where it looks to what it does: causal studies of heads and evidence on one model.

    python -m experiments.causal --model demo/llava --limit 300 --out results/causal

Layers are profiled, and means of heads taken, on the split `profile`; probes are fitted on `train`; everything is judged on `test`.
Writes into the folder, with figures as HTML (and PNG where Chrome or Chromium is found):
    summary.md              one page: what was found, negative findings included
    head_effects.*          change of the answer when a single head is replaced by its mean, (layer, head)
    taxonomy.csv            every head: where it looks, what it writes, what it does; correlations.csv: how far these agree
    look_and_do.*, look_and_write.*   AUROC on the evidence against effect, and against direct logit attribution
    knockout.*, knockout_text.*       attention to the evidence cut, beside as many random tokens, by correctness
    patching.csv, patching_*.*        recovery by layer and token group, for three kinds of pairs; patching_heads.*: by head
    ablation.csv            the best grounding heads ablated, k = 1, 2, 4, ..., beside random heads of the same layers and of any
    masking.csv             base, inst and vea with those heads ablated
    vea.csv                 what VEA changes in the model, beside the same map shifted
    probes.csv, lens.csv    where the answer can be read, layer by layer
    fates.csv, fates_*.*    every wrong answer in one class, per prior arm
    profile.zarr, test.zarr           the traces
    heads.zarr              every head's measures on every sample; knockout.zarr, knockout_text.zarr: every sample's losses
Intervals are 95 % bootstrap over pictures.
"""

from __future__ import annotations

import time
from pathlib import Path

import cyclopts
from rich.console import Console

from experiments.causal_study import answers, evidence, heads
from experiments.causal_study.material import prepare
from interp import plots

app = cyclopts.App(name="causal", help=__doc__)
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
