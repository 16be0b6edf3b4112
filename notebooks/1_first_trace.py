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
# # 1 · A first trace
#
# A vision-language model reads a prompt: some text, and a few hundred tokens that stand for a picture. From the last prompt token it says
# the first word of its answer. Where does that token look, layer by layer and head by head, and does it look where the answer is?
#
# This notebook asks a small model questions, keeps the attention of its last prompt token, and lays it over the pictures.
#
# **What it can show.** The model is an *organism*: a real architecture at a small size, trained on `digits`, the benchmark that is asked
# here. Results on it validate the tool and show that an effect can occur. They are no evidence about released checkpoints; for one of
# those, change `MODEL` (notebook 5).

# %%
import os
import tempfile

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

import interp
from interp import analysis, plots

# %% tags=["parameters"]
MODEL = "demo/llava"
N = int(os.environ.get("INTERP_NOTEBOOK_N", 300))  # questions

# %% [markdown]
# ## The model and a question
#
# A benchmark is a sequence of samples: a picture, a question, accepted answers, and boxes that a person (here the generator) has marked.
# A box is *evidence* where the answer is, a *distractor* where another candidate is, an *anchor* where the question merely names
# something.

# %%
vlm = interp.load_vlm(MODEL)
bench = interp.load_benchmark("digits", split="test", limit=N)
asked = next(sample for sample in bench if sample.evidence)
display(asked.open_images()[0])
display(Markdown(f"*{asked.question}* Accepted: {', '.join(asked.references)}. Asked of: `{vlm}`."))
pd.DataFrame([{"role": region.role, "text": region.text, "box (x0, y0, x1, y1), pixels": region.box} for region in asked.regions])

# %% [markdown]
# ## The trace
#
# `interp.trace` asks every question once. One pass over the prompt serves the attention rows, the answer, and the probability of the
# reference. What comes back is one labelled data set.

# %%
ds = interp.trace(vlm, bench, batch_size=32)
kept = [
    "attention",
    "coverage",
    "prediction",
    "exact_match",
    "reference_logprob",
    "entropy",
    "token_text",
    "segment",
    "token_box",
    "row",
    "col",
]
pd.DataFrame([{"variable": name, "dimensions": ", ".join(map(str, ds[name].dims)), "shape": ds[name].shape} for name in kept])

# %% [markdown]
# Two variables carry the idea. `token_box` is the part of the *original* picture that a visual token stands for, whatever the processor
# did to the picture (squashed, cropped, tiled, merged). `coverage` is the share of that part that is evidence. With them nothing below
# needs to know which architecture this is. Here are the visual tokens of the question above that lie on the evidence:

# %%
place = [str(name) for name in ds["sample"].values].index(asked.id)
one = ds.isel(sample=place)
of_evidence = np.flatnonzero(one["coverage"].values > 0)
pd.DataFrame(
    {
        "row": one["row"].values[of_evidence],
        "col": one["col"].values[of_evidence],
        "box": [tuple(np.round(box, 1).tolist()) for box in one["token_box"].values[of_evidence]],
        "coverage": one["coverage"].values[of_evidence].round(2),
        "attention, last layer, mean of heads": one["attention"].isel(layer=-1).mean("head").values[of_evidence].round(4),
    },
    index=pd.Index(of_evidence, name="token"),
)


# %% [markdown]
# A number is of little use without its interval. Intervals are a dimension, `ci_bound`; they come from resampling pictures, because
# questions about one picture are not independent.


# %%
def said(result, digits=2):
    """A mean with its interval, in words."""
    low, high = result["interval"].values
    return f"{float(result['mean']):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


right = analysis.mean_interval(ds["exact_match"], ds["image_id"])
off = float(np.abs(ds["attention"].sum("token") - 1).max())
display(
    Markdown(
        f"Exact match of `{MODEL}` on `digits` test: **{said(right)}** (95 % interval, n = {int(right['n'])}). "
        f"Check: rows of attention sum to one within {off:.0e}."
    )
)

# %% [markdown]
# ## Step 1: on the picture, layer by layer
#
# The sample shown is not picked by eye: it is the first one that was answered rightly and whose evidence the model's own preprocessing
# keeps. Every token's value is painted on exactly the region it stands for; all layers share one scale.

# %%
visible = ds["visibility"].values.astype(object) == "visible"
candidates = np.flatnonzero((ds["exact_match"].values == 1) & visible)
k = int(candidates[0]) if len(candidates) else place
plots.layer_maps(ds.isel(sample=k), bench[k].open_images()[0])

# %% [markdown]
# ## Step 2: how much of the attention is on the picture at all
#
# Maps show where on the picture attention lies, not how much of it does. The mass on all visual tokens tells.

# %%
mass = analysis.segment_mass(ds)
plots.mass_by_layer(mass.assign_attrs(ds.attrs | mass.attrs))

# %% [markdown]
# ## Step 3: from text to image
#
# Mass favours long sections. *Relative attention per token* divides the mean attention on a section's tokens by the mean on all tokens of
# the prompt: 1 is an even spread. In the paper's models, attention moves from the question to the image with depth (its Fig. 1). Here:

# %%
relative = analysis.rapt(ds)
shift = analysis.mean_interval(relative, ds["image_id"]).assign_attrs(ds.attrs)
plots.attention_shift(shift)

# %%
image = shift.sel(section="image")
highest = int(image["mean"].idxmax())
display(
    Markdown(
        f"Relative attention on an image token: {said(image.isel(layer=0))} in the first layer, {said(image.isel(layer=-1))} in the last; "
        f"highest in layer {highest}, {said(image.sel(layer=highest))}."
    )
)

# %% [markdown]
# ## Step 4: does it look at the evidence?
#
# For each head, the AUROC of its attention on evidence tokens against the other visual tokens: the probability that a token of the
# evidence gets more than one beside it. 0.5 is chance, 1 a perfect ranking.

# %%
by_head = analysis.grounding(ds, level="head")["auroc"]
heads = analysis.mean_interval(by_head, ds["image_id"]).assign_attrs(ds.attrs)
plots.head_grounding(heads)

# %%
layer, head = np.unravel_index(np.nanargmax(heads["mean"].values), heads["mean"].shape)
best = heads.isel(layer=layer, head=head)
above = int((heads["interval"].sel(ci_bound="lower") > 0.5).sum())
display(
    Markdown(
        f"{above} of {heads['mean'].size} heads lie above chance with their whole interval. The highest is L{layer}H{head}, {said(best)}; "
        "as the best of many, chosen on these very samples, it is rather too high. Notebook 2 chooses layers on other pictures."
    )
)

# %% [markdown]
# ## Keeping it
#
# A trace of a large model belongs on disk. With `store=` it is written as it is made; killed at any moment, the same call takes it up
# again. A finished store opens lazily and is analysed without the model.

# %%
with tempfile.TemporaryDirectory() as folder:
    interp.trace(vlm, bench[:16], batch_size=8, store=f"{folder}/run.zarr")
    again = interp.open_trace(f"{folder}/run.zarr")
    same = np.array_equal(again["prediction"].values.astype(object), ds["prediction"].values[:16].astype(object))
    display(Markdown(f"Sizes on disk: {dict(again.sizes)}. The same answers as above: {same}."))

# %% [markdown]
# Figures are plotly figures. `interp.plots.save({"layer_maps": figure}, "figures")` writes HTML and PNG,
# `figure.write_image("layer_maps.pdf")` a vector file for a paper; each carries its caption with model, split, prompt and n.
#
# That attention lies on the evidence does not say that the answer uses it, nor that wrong answers come from looking elsewhere. Next: [2 ·
# Seeing but not believing](2_seeing_but_not_believing.ipynb).
