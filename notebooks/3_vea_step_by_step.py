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
# # 3 · Visual evidence augmentation, step by step
#
# If a model looks at the right place and still answers wrongly, one can try to make it believe what it sees: take its own attention, turn
# it into a map on the picture, dim what the map passes over, and ask again. The paper calls this visual evidence augmentation (VEA, Eqs.
# 1 to 4). No training, no boxes, no other model.
#
# This notebook makes the map by hand on one picture, then judges the method on many, beside controls that change the picture as much and
# point elsewhere.
#
# **What it can show.** The model is an *organism*: a real architecture at a small size, trained on `digits`, the benchmark that is asked
# here. Results on it validate the tool and show that an effect can occur. They are no evidence about released checkpoints.

# %%
import os

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

import interp
from interp import analysis, findings, plots
from interp.interventions import evidence_map, gain, highlight, shift, uniform

# %% tags=["parameters"]
MODEL = "demo/llava"
N = int(os.environ.get("INTERP_NOTEBOOK_N", 500))  # questions that are judged
ALPHA = 0.5  # how bright the dimmest pixel stays (the paper's value)

# %% [markdown]
# ## The layers, the questions, the answers
#
# Layers are chosen on the split `profile`, everything else is judged on `test`. `evaluate` asks every question in six ways:
#
# | method | picture | wording | what it is for |
# |---|---|---|---|
# | `base` | original | plain | the starting point |
# | `inst` | original | speaks of a highlighted region | the wording alone |
# | `vea` | highlighted by the model's own attention | as `inst` | the method |
# | `vea-shifted` | the same map, moved elsewhere | as `inst` | the same change, another place |
# | `vea-uniform` | dimmed everywhere by the same mean | as `inst` | the same dimming, no place |
# | `vea-boxes` | highlighted by the marked boxes | as `inst` | what a perfect map would give |

# %%
vlm = interp.load_vlm(MODEL)
fitted = interp.trace(vlm, interp.load_benchmark("digits", split="profile", limit=min(200, N)), batch_size=32)
profile = interp.profile_layers(fitted)
bench = interp.load_benchmark("digits", split="test", limit=N)
ds = interp.trace(vlm, bench, batch_size=32)
methods = ["base", "inst", "vea", "vea-shifted", "vea-uniform", "vea-boxes"]
answers = interp.evaluate(vlm, bench, methods, profile, alpha=ALPHA, batch_size=32)
display(Markdown(f"Profiled layers of `{MODEL}`: {list(profile.layers)}, of {vlm.n_layers} in all."))

# %% [markdown]
# ## Step 1: from attention to a highlighted picture
#
# The sample is the right answer whose profiled map has the median AUROC on the evidence: neither the best nor the worst case.
#
# 1. **Attention** (Eq. 1): the last prompt token's attention, mean over the profiled layers and their heads, painted on the original
#    picture.
# 2. **Without spikes** (Eq. 2): a token far above its neighbours in its grid is taken for a sink, and replaced.
# 3. **Smoothed** (Eq. 3): a Gaussian of half the shorter side, then stretched from 0 to 1.
# 4. **Gain** (Eq. 4): `alpha + (1 - alpha) * map`, what each pixel is multiplied with.

# %%
typical = findings.typical_sample(answers)
sample, picture = ds.isel(sample=typical), bench[typical].open_images()[0]
steps = {"1 attention": (False, False), "2 without spikes": (True, False), "3 smoothed": (True, True)}
stages = {name: evidence_map(sample, profile, denoise=denoise, smooth=smooth) for name, (denoise, smooth) in steps.items()}
smoothed = stages["3 smoothed"]
stages["4 gain"] = smoothed.copy(data=gain(smoothed, ALPHA).astype(np.float32))
plots.method_stages(sample, picture, stages, highlight(picture, smoothed, ALPHA))


# %% [markdown]
# How well does each stage point? The mean of the map inside the evidence's box and outside it, on this picture alone:


# %%
def inside(values, boxes):
    """(y, x): pixels whose centre lies in a box."""
    x, y = values["x"], values["y"]
    marks = [(x >= x0) & (x < x1) & (y >= y0) & (y < y1) for x0, y0, x1, y1 in boxes]
    return np.logical_or.reduce([mark.transpose("y", "x").values for mark in marks])


marked = inside(smoothed, [region.box for region in bench[typical].evidence])
rows = {
    name: {"inside": float(values.values[marked].mean()), "outside": float(values.values[~marked].mean())}
    for name, values in stages.items()
}
pd.DataFrame(rows).T.rename_axis("stage").round(3)

# %% [markdown]
# ## Step 2: the controls, on the same picture
#
# In order: the map, the same map moved round the picture's edges, and one value everywhere. All three dim the picture by the same mean,
# so whatever only comes from dimming must show in all of them. The last panel is the picture under the *shifted* map.

# %%
moved = shift(smoothed, seed=0)
maps = {"the map": smoothed, "shifted": moved, "uniform": uniform(smoothed)}
controls = plots.method_stages(sample, picture, maps, highlight(picture, moved, ALPHA))
controls.update_layout(title_text="The map and its controls")

# %% [markdown]
# ## Step 3: before and after
#
# The first wrong answer of `base` that `vea` mends; where there is none, a right one. It is an illustration chosen because it went well:
# what the method does is in the next figure.

# %%
mended = findings.mended_sample(answers)
before, after = (str(answers["prediction"].sel({"method": name}).values[mended]) for name in ("base", "vea"))
shown, original = ds.isel(sample=mended), bench[mended].open_images()[0]
seen = evidence_map(shown, profile)
plots.before_after(shown, original, seen, highlight(original, seen, ALPHA), before, after)

# %% [markdown]
# ## Step 4: all questions
#
# Scores with intervals over pictures, and paired differences. Read `vea` against `inst`: the two differ by the highlight alone. Then read
# `vea-shifted` and `vea-uniform` against `inst`: a gain that they share is not owed to the map.

# %%
compared = findings.compare_methods(answers)
plots.methods(compared.scores, *compared.against)

# %%
against_inst = analysis.compare(answers, "inst")
columns = ["mean", "difference", "wins", "losses", "n", "p_permutation", "p_holm_permutation"]
table = against_inst[columns].to_dataframe()[columns]
bounds = against_inst["interval"].transpose("method", "ci_bound").values
table.insert(2, "lower", bounds[:, 0])
table.insert(3, "upper", bounds[:, 1])
display(
    Markdown(
        "Exact match less that of `inst`, 95 % intervals over pictures, p from flipping the signs of whole pictures, before and after Holm:"
    )
)
table.round(3)

# %% [markdown]
# ## Step 5: does it hurt where attention was wrong?
#
# The method follows attention. Where attention missed the evidence, the evidence is what gets dimmed.

# %%
plots.accuracy_by_quality(compared.quality, compared.effect)

# %% [markdown]
# ## Step 6: how much to dim
#
# At `alpha = 1` the picture is left as it is and `vea` must answer exactly as `inst`: a check of the whole path.

# %%
rows = {}
for alpha in (0.25, 0.5, 0.75, 1.0):
    pair = answers if alpha == ALPHA else interp.evaluate(vlm, bench, ["inst", "vea"], profile, alpha=alpha, batch_size=32)
    one = analysis.compare(pair, "inst").sel({"method": "vea"})
    low, high = one["interval"].values
    rows[alpha] = {"vea less inst": float(one["difference"]), "lower": low, "upper": high, "p": float(one["p_permutation"])}
    rows[alpha] |= {"wins": int(one["wins"]), "losses": int(one["losses"])}
    if alpha == 1.0:
        inst, vea = (pair["prediction"].sel({"method": name}).values.astype(object) for name in ("inst", "vea"))
        assert (inst == vea).all()
sweep = pd.DataFrame(rows).T.rename_axis("alpha").astype({"wins": int, "losses": int})
below = sweep.index < 1
sweep.loc[below, "p, Holm"] = analysis.holm(sweep.loc[below, "p"])
sweep.round(3)

# %% [markdown]
# ## What came out

# %%
gained = against_inst.sel({"method": "vea"})
low, high = gained["interval"].values
clear = float(gained["p_holm_permutation"]) < 0.05
effect = "cannot be told from no effect" if not clear else "helps" if float(gained["difference"]) > 0 else "hurts"
passes = answers["passes"].mean("sample")
extra = float(passes.sel({"method": "vea"}) / passes.sel({"method": "base"}))
lines = [
    f"Highlighting, `vea` less `inst`: {float(gained['difference']):+.3f} [{low:.3f}, {high:.3f}], {int(gained['wins'])} wins and "
    f"{int(gained['losses'])} losses of {int(gained['n'])}, p = {float(gained['p_holm_permutation']):.3f} after Holm: on `{MODEL}` it "
    f"**{effect}** at alpha {ALPHA}.",
    *(
        f"Control `{name}` less `inst`: {float(against_inst['difference'].sel({'method': name})):+.3f}."
        for name in ("vea-shifted", "vea-uniform", "vea-boxes")
    ),
    f"Cost of `vea`: {extra:.2f} times the decoder passes of `base`.",
]
display(Markdown("\n\n".join(lines)))

# %% [markdown]
# Whatever the direction, it is that of one small model trained on this benchmark. `interp reproduce` runs the same comparison, with rival
# methods and ablations, on every shipped organism, and unchanged on a released checkpoint.
#
# Next: which heads does the answer depend on? [4 · A head-ablation study](4_head_ablation.ipynb).
