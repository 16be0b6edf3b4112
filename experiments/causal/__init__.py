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
