# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4 · A head-ablation study
#
# Attention is no proof of use: a head may look at the evidence and write nothing that matters. This notebook intervenes. It replaces each
# head's output in turn, sees how the answer suffers, and asks whether the heads that look right are the heads that matter. Then it
# removes the best lookers together, beside as many others.
#
# **What it can show.** The model is an *organism*: a real architecture at a small size, trained on `digits`, the benchmark that is asked
# here. Results on it validate the tool and show that an effect can occur. They are no evidence about released checkpoints.

# %%
import os

import numpy as np
import pandas as pd
import xarray as xr
from IPython.display import Markdown, display

import interp
from interp import analysis, plots
from interp.interventions import ablate_heads, head_reference, head_sweep

# %% tags=["parameters"]
MODEL = "demo/llava"
N = int(os.environ.get("INTERP_NOTEBOOK_N", 200))  # questions that are judged
K = 4  # heads that are removed together
DRAWS = 3  # of each kind of control

# %% [markdown]
# ## Material
#
# A head that is set to zero also loses what it writes on every picture alike. So heads are replaced by their *mean* over a reference set,
# at the last prompt position and at the answer's tokens. Reference and ranking come from the split `profile`, effects are measured on
# `test`.

# %%
vlm = interp.load_vlm(MODEL)
fitted = interp.load_benchmark("digits", split="profile", limit=min(200, N))
others = head_reference(vlm, fitted[: min(50, N)], name="digits profile")
ranking = interp.trace(vlm, fitted, batch_size=32)
bench = interp.load_benchmark("digits", split="test", limit=N)
ds = interp.trace(vlm, bench, batch_size=32)

# %% [markdown]
# ## Step 1: every head, one at a time
#
# `head_sweep` replaces each head of each layer and gives the change of the reference's log-probability. It shares the prefix of all these
# runs, and costs about one more forward pass; the result is that of running the model once per head.

# %%
sweep = head_sweep(vlm, bench, mode="mean", positions="generated", reference=others)
effect = analysis.mean_interval(sweep["delta_logprob"], sweep["image_id"]).assign_attrs(sweep.attrs)
plots.head_effects(effect, unit="change of log-probability, nats")

# %%
layer, head = (int(place) for place in np.unravel_index(np.nanargmin(effect["mean"].values), effect["mean"].shape))
at_worst = effect.sel(layer=layer, head=head)
low, high = at_worst["interval"].values
clear = (effect["interval"].sel(ci_bound="lower") > 0) | (effect["interval"].sel(ci_bound="upper") < 0)
display(
    Markdown(
        f"Largest loss: L{layer}H{head}, {float(at_worst['mean']):.2f} [{low:.2f}, {high:.2f}] nats. The interval leaves zero out for "
        f"{int(clear.sum())} of {clear.size} heads; {0.05 * clear.size:.0f} would by chance."
    )
)

# %% [markdown]
# **Check.** The same head, removed by `ablate_heads` while `interp.trace` runs, must give the same numbers.

# %%
with ablate_heads(vlm, [(layer, head)], "mean", "generated", others):
    alone = interp.trace(vlm, bench[:8], batch_size=1)
by_hand = alone["reference_logprob"].values - ds["reference_logprob"].values[:8]
swept = sweep["delta_logprob"].sel(layer=layer, head=head).values[:8]
gap = float(np.abs(by_hand - swept).max())
assert gap < 1e-3, gap
display(Markdown(f"Largest difference between sweep and ablation on 8 questions: {gap:.0e} nats."))

# %% [markdown]
# ## Step 2: do the heads that look right matter?
#
# One point per head: along x how well it ranks the evidence, along y what its removal does. If looking were using, points would fall to
# the right: the better a head looks, the more its removal costs.

# %%
measured = analysis.head_measures(ds, effects={"delta_logprob": sweep["delta_logprob"]})
taxonomy = analysis.head_taxonomy(measured)
agreement = taxonomy.sel(measure="grounding", other="delta_logprob")
low, high = agreement["rank_correlation_interval"].values
spearman = f"{float(agreement['rank_correlation']):.2f} [{low:.2f}, {high:.2f}]"
plots.look_and_write(taxonomy.assign_attrs(**ds.attrs, n=ds.sizes["sample"], spearman=spearman))

# %%
rows = []
for name in ("grounding", "evidence_share", "image_mass"):
    cell = taxonomy.sel(measure=name, other="delta_logprob")
    bounds = cell["rank_correlation_interval"].values
    meaning = taxonomy[name].attrs.get("long_name", name)
    rows.append({"of": meaning, "rank correlation": float(cell["rank_correlation"]), "lower": bounds[0], "upper": bounds[1]})
display(
    Markdown("Rank correlation over heads with the effect of removal (negative: what looks there is needed), 95 % intervals over pictures:")
)
pd.DataFrame(rows).set_index("of").round(2)

# %% [markdown]
# ## Step 3: the best lookers together
#
# Heads can stand in for one another, so single removals may miss what a group does. The best heads by AUROC *on the split profile* are
# removed together, beside two controls: as many others of the same layers, and as many of any layer. Each control is the mean over
# several draws.

# %%
looks = analysis.grounding(ranking, level="head")["auroc"].mean("sample").transpose("layer", "head")
order = np.argsort(-np.nan_to_num(looks.values), axis=None)
best = np.stack(np.unravel_index(order[:K], looks.shape), axis=1)
same_layers = analysis.layer_matched(best, vlm.n_heads, DRAWS)
anywhere = analysis.random_heads(K, vlm.n_layers, vlm.n_heads, DRAWS, avoid=best)
chosen = {tuple(pair) for pair in best.tolist()}
shared = np.mean([len(chosen & {tuple(pair) for pair in draw}) for draw in same_layers.tolist()])
names = ", ".join(f"L{a}H{b}" for a, b in best)
display(Markdown(f"Removed: {names}. Of the layer-matched heads {shared:.1f} of {K} are among these, for want of others in their layers."))


# %%
def scores(heads):
    """(score, sample) with these heads replaced by their means."""
    with ablate_heads(vlm, [(int(a), int(b)) for a, b in heads], "mean", "generated", others):
        run = interp.trace(vlm, bench, batch_size=32)
    return np.stack([run["exact_match"].values, run["reference_logprob"].values]).astype(float)


whole = np.stack([ds["exact_match"].values, ds["reference_logprob"].values]).astype(float)
conditions = {
    "none": whole,
    f"best {K}": scores(best),
    f"same layers {K}": np.mean([scores(draw) for draw in same_layers], axis=0),
    f"random {K}": np.mean([scores(draw) for draw in anywhere], axis=0),
}
removed = xr.Dataset(
    {
        name: (("method", "sample"), np.stack([values[k] for values in conditions.values()]))
        for k, name in enumerate(["exact_match", "logprob"])
    },
    coords={
        "method": list(conditions),
        "sample": ds["sample"].values.astype(object),
        "image_id": ("sample", ds["image_id"].values.astype(object)),
    },
    attrs=ds.attrs,
)
means = analysis.mean_interval(removed["exact_match"], removed["image_id"]).assign_attrs(ds.attrs)
against = [analysis.compare(removed, name) for name in ("none", f"same layers {K}")]
figure = plots.methods(means, *against)
figure.update_layout(title_text="Heads removed together")

# %% [markdown]
# Exact match is coarse; the log-probability of the reference sees what does not yet change an answer.

# %%
rows = []
for other in ("none", f"same layers {K}", f"random {K}"):
    for score, unit in (("exact_match", "exact match"), ("logprob", "reference log-probability, nats")):
        one = analysis.compare(removed, other, score).sel({"method": f"best {K}"})
        low, high = one["interval"].values
        row = {"score": unit, "best heads less": other, "difference": float(one["difference"]), "lower": low, "upper": high}
        rows.append(row | {"p": float(one["p_permutation"]), "n": int(one["n"])})
table = pd.DataFrame(rows).sort_values("score", kind="stable").reset_index(drop=True)
table["p, Holm"] = analysis.holm(table["p"])
table.round(3)

# %% [markdown]
# ## What came out

# %%
beyond = table[table["score"].str.startswith("reference") & (table["best heads less"] == f"same layers {K}")].iloc[0]
matters = "cost more" if beyond["difference"] < 0 else "cost less"
display(
    Markdown(
        f"On `{MODEL}` (n = {N}): rank correlation of looking with mattering {spearman}. Removing the {K} best lookers less removing as "
        f"many others of their layers: {beyond['difference']:.2f} [{beyond['lower']:.2f}, {beyond['upper']:.2f}] nats, p = "
        f"{beyond['p, Holm']:.3f} after Holm: they **{matters if beyond['p, Holm'] < 0.05 else 'cannot be told from their neighbours'}**."
    )
)

# %% [markdown]
# `interp.interventions` has the other tools of a causal study: `knockout` hides the evidence from later tokens, beside as many random
# tokens; `patch` carries activations between two scenes that differ by one digit; `interp.circuits` takes apart what a head writes. All
# of them together are one command, `python -m experiments.causal`.
#
# Next: [5 · Your own model and data](5_bring_your_own_model_and_data.ipynb).
