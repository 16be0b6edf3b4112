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
# # 2 · Seeing but not believing
#
# When a model answers wrongly, did it look at the wrong place, fail to read what it looked at, or have the answer and say something else?
# The paper ([arXiv 2510.17771](https://arxiv.org/abs/2510.17771)) finds that deep layers attend to the evidence whether the answer is
# right or wrong. This notebook takes the question apart and puts each share beside what chance would give.
#
# - **visible**: the model's own preprocessing keeps the evidence.
# - **seen**: the profiled layers rank the evidence above the 95th percentile of other places of equal size in the same picture.
# - **readable**: a linear probe, fitted on other scenes, reads the answer off the evidence's tokens as they enter the decoder.
# - *Seen, readable, wrong* is **seeing but not believing**.
#
# **What it can show.** The model is an *organism*: a real architecture at a small size, trained on `digits`, the benchmark that is asked
# here. Results on it validate the tool and show that an effect can occur. They are no evidence about released checkpoints.

# %%
import os

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

import interp
from interp import analysis, plots, tables

# %% tags=["parameters"]
MODEL = "demo/llava"
N = int(os.environ.get("INTERP_NOTEBOOK_N", 500))  # questions that are judged

# %% [markdown]
# ## Step 1: which layers look at the evidence
#
# Layers are chosen on the split `profile`, by the mean AUROC of their attention on the evidence (the paper's best tenth). Its pictures
# share nothing with `test`; were they to, the analyses below would refuse the profile.

# %%
vlm = interp.load_vlm(MODEL)
fitted = interp.trace(vlm, interp.load_benchmark("digits", split="profile", limit=min(200, N)), batch_size=32)
profile = interp.profile_layers(fitted)
layers = pd.DataFrame(profile.interval, columns=["lower", "upper"]).rename_axis("layer")
layers.insert(0, "AUROC", profile.auroc)
layers["profiled"] = ["yes" if layer in profile.layers else "" for layer in layers.index]
display(
    Markdown(
        f"`{MODEL}`, `digits` profile, n = {len(profile.sample_ids) - profile.n_undefined} with evidence; 95 % intervals over pictures:"
    )
)
layers.round(3)

# %% [markdown]
# ## Step 2: the questions that are judged
#
# What the model cannot see it cannot believe. Evidence that preprocessing loses, cuts, or leaves under 8 pixels small is counted, and
# left out of what follows. So are questions about a card that is not there: they have no evidence.

# %%
bench = interp.load_benchmark("digits", split="test", limit=N)
ds = interp.trace(vlm, bench, batch_size=32)
tables.visibility_table(analysis.visibility(ds))

# %% [markdown]
# ## Step 3: attention on the evidence, by correctness
#
# Relative attention per token on the evidence and beside it, for right and for wrong answers (the paper's Fig. 4). Bands are 95 %
# intervals over pictures; the lower panel is the difference.

# %%
split = analysis.by_correctness(analysis.rapt(ds), ds)
plots.evidence_by_correctness(split)

# %% [markdown]
# A difference between right and wrong answers may only say that hard pictures are hard in two ways: small or pale cards are looked at
# less *and* misread more. So the test is repeated within terciles of card size and contrast, permuting labels within strata.

# %%
profiled = analysis.profiled_map(ds, profile)
quantities = {
    "AUROC of the profiled map": analysis.auroc(profiled, ds["coverage"], profile.rule),
    "relative attention on evidence": analysis.rapt(ds).sel(section="evidence", layer=list(profile.layers)).mean("layer"),
    "relative attention off evidence": analysis.rapt(ds).sel(section="non-evidence", layer=list(profile.layers)).mean("layer"),
}
plain = {name: analysis.by_correctness(values, ds) for name, values in quantities.items()}
stratified = {name: analysis.by_correctness(values, ds, strata=["card_size", "contrast"]) for name, values in quantities.items()}
tables.correctness_table(plain, stratified)

# %% [markdown]
# ## Step 4: seen, and readable
#
# **Seen.** A high AUROC may be had by any place near the middle of the picture. So each sample's evidence competes with other places in
# its own picture: boxes of its size *placed* anywhere off it, and the *distractors*, the other candidates of the question. Beside each
# share stands what the same rule gives by chance. A share of the wrong answers near that of the right ones, and both above chance, is
# what the paper's finding would look like.
#
# **Readable.** The probe is fitted on the split `train`, on scenes whose card colours do not foretell a digit, and on evidence only. Read
# on the distractors of a question it should *not* find the question's answer: that is the control.

# %%
training = [sample for sample in interp.load_benchmark("digits", split="train", limit=3 * N) if sample.knobs["prior_digit"] == -1]
probe = analysis.fit_probe(interp.token_features(vlm, training, batch_size=32), roles=("evidence",))
readable = analysis.readable(probe, interp.token_features(vlm, bench, batch_size=32))
result = analysis.disconnect(ds, profile, readable, map=profiled)
display(tables.seen_table(result), tables.probe_table(readable))

# %% [markdown]
# ## Step 5: seen, readable, correct
#
# Above, every judged sample in its cell; below, shares with intervals, and a mark where chance would put them.

# %%
plots.disconnect_table(result)

# %% [markdown]
# ## Step 6: what such answers look like
#
# The first wrong answers whose evidence is seen (against the headline null) and readable; if there are none, nothing is drawn.

# %%
headline = str(result.attrs["headline"])
saw = analysis.seen(ds, profile, map=profiled)["seen"].sel(null=headline).values == 1
read = readable["readable"].values == 1
visible = ds["visibility"].values.astype(object) == "visible"
found = np.flatnonzero(saw & read & visible & (ds["exact_match"].values == 0))
examples = [
    plots.Example(
        ds.isel(sample=int(k)),
        bench[int(k)].open_images()[0],
        profile.layers,
        f"said {ds['prediction'].values[k]!s}, not {bench[int(k)].references[0]}",
        [bench[int(k)].question],
    )
    for k in found[:4]
]
drawn = (
    plots.gallery(examples, "Seen, readable, wrong", f"The first {len(examples)} of {len(found)} in order of the benchmark.")
    if examples
    else None
)
drawn or Markdown(f"None among {N} questions.")

# %% [markdown]
# ## What came out


# %%
def verdict(null):
    """The share of wrong answers that were seen and readable, beside its chance level, in words."""
    at = result.sel(null=null, outcome="seeing but not believing")
    share, chance = float(at["outcome_share"]), float(at["outcome_expected"])
    low, high = at["outcome_interval"].values
    n = int(result["seen_n"].sel(null=null, group="wrong"))
    if not np.isfinite([low, high, chance]).all():
        return f"Against *{null}* boxes: too few wrong answers to say (n = {n})."
    against = "more than chance gives" if low > chance else "less than chance gives" if high < chance else "not told apart from chance"
    quoted = " (the null to quote)" if null == headline else ""
    return (
        f"Against *{null}* boxes{quoted}: of {n} wrong answers with visible evidence, **{share:.2f} [{low:.2f}, {high:.2f}]** were seen "
        f"and readable; if nobody saw, it would be {chance:.2f}: **{against}**."
    )


order = str(ds.attrs["prompt_order"])
display(
    Markdown(
        "\n\n".join([f"`{MODEL}`, prompt {order}, n = {len(bench)} questions:", *(verdict(str(null)) for null in result["null"].values)])
    )
)

# %% [markdown]
# These are shares of a small model's errors on its own benchmark; they show that the tool tells the cases apart, whichever way it came
# out. Other conditions are a parameter away: `interp.load_vlm(MODEL, prompt_order="question-first")` puts the question before the
# picture, and needs its own profile.
#
# That attention was on the evidence, and that the answer was in its tokens, does not prove that the answer *depends* on either; notebook
# 4 intervenes. First the method that is built on the finding: [3 · VEA step by step](3_vea_step_by_step.ipynb).
