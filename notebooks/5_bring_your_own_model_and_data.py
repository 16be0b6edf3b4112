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
# # 5 · Your own model and data
#
# Everything so far ran on a model and a benchmark that ship with the package. This notebook does the same with a model that you have
# built and a file of questions that you have written. Both are stand-ins here, so that it runs anywhere: replace the two cells that are
# marked, keep the rest.
#
# **What it can show.** The stand-in model is an *organism*: a real architecture at a small size, trained on the benchmark that the
# questions are copied from. Results on it validate the tool and show that an effect can occur. They are no evidence about released
# checkpoints.

# %%
import json
import os
from pathlib import Path

import pandas as pd
from IPython.display import Markdown, display
from transformers import AutoModelForImageTextToText, AutoProcessor

import interp
from interp import analysis, findings, plots

# %% tags=["parameters"]
N = int(os.environ.get("INTERP_NOTEBOOK_N", 200))  # questions that are judged
DATA = Path("my_data")

# %% [markdown]
# ## The model
#
# `interp.VLM` takes a built model of transformers and its processor: a fine-tune, a merge, a quantised copy. Its family is found by the
# configuration's `model_type`. A name on the Hugging Face hub or a local folder goes through `interp.load_vlm` instead:
#
# ```python
# vlm = interp.load_vlm("llava-hf/llava-1.5-7b-hf", device="cuda", dtype="bfloat16")
# ```
#
# **Replace this cell.**

# %%
checkpoint = Path(interp.__file__).parent / "organisms" / "llava"  # stands for the folder of your fine-tune
model = AutoModelForImageTextToText.from_pretrained(checkpoint)
processor = AutoProcessor.from_pretrained(checkpoint)
vlm = interp.VLM(model, processor, name="my fine-tune")
print(vlm)

# %% [markdown]
# ## Step 1: certify it
#
# Before work is spent on a checkpoint, ask whether what the tool assumes holds of it: that attention rows are the model's own, that an
# edit takes effect and leaves no trace, that a marker drawn on a picture moves exactly the tokens whose boxes hold it, that padding and
# batches change nothing.

# %%
certificate = interp.check(vlm)
display(Markdown(certificate.verdict))
with pd.option_context("display.max_colwidth", None):
    display(certificate.to_dataset()[["outcome", "found"]].to_dataframe())

# %% [markdown]
# ## The data
#
# One JSON object a line; only `id`, a picture, `question` and `references` are needed. Boxes make the evidence known, in pixels of the
# original picture (or as shares, with `"normalised": true`). `split` keeps the pictures that layers are chosen on apart from those that
# are judged. The whole format is in the documentation of `interp.benchmarks.jsonl`.
#
# **Replace this cell** with a file of your own. Here scenes of `digits` are written out as pictures and rows.

# %%
(DATA / "pictures").mkdir(parents=True, exist_ok=True)
rows = []
for split, limit in (("profile", min(100, N)), ("test", N)):
    for number, sample in enumerate(interp.load_benchmark("digits", split=split, limit=limit)):
        name = f"pictures/{split}-{number:04d}.png"
        sample.open_images()[0].save(DATA / name)
        regions = [{"box": list(region.box), "role": region.role, "text": region.text} for region in sample.regions]
        rows.append(
            {
                "id": f"{split}-{number}",
                "image": name,
                "image_id": sample.image_id,  # several questions may be about one scene
                "question": sample.question,
                "references": list(sample.references),
                "regions": regions,
                "split": split,
                "knobs": {"card_size": sample.knobs["card_size"]},
            }
        )
(DATA / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
print("{" + ",\n ".join(f"{json.dumps(field)}: {json.dumps(value)}" for field, value in rows[1].items()) + "}")

# %% [markdown]
# ## Step 2: read it
#
# Every row is checked before the model is asked anything. What is wrong with a row is said with its file, its line, its field and a
# remedy; with `skip_bad=True` such rows are left out and counted.

# %%
broken = [{**rows[0], "id": "a"}, {**rows[1], "id": "b", "boxes": [[10, 10, 9000, 40]]}, {**rows[2], "id": "c", "qestion": "?"}]
(DATA / "broken.jsonl").write_text("\n".join(map(json.dumps, broken)) + "\n", encoding="utf-8")
try:
    interp.load_benchmark("jsonl", path=DATA / "broken.jsonl")
except interp.errors.InterpError as error:
    print(error)
print(dict(interp.load_benchmark("jsonl", path=DATA / "broken.jsonl", skip_bad=True).report))

# %%
bench = interp.load_benchmark("jsonl", path=DATA / "questions.jsonl", split="test")
fitted = interp.load_benchmark("jsonl", path=DATA / "questions.jsonl", split="profile")
display(bench[1].open_images()[0])
pd.DataFrame({"profile": dict(fitted.report), "test": dict(bench.report)})

# %% [markdown]
# ## Step 3: trace and profile
#
# From here on nothing is special: the same calls as in notebooks 1 to 3.

# %%
profile = interp.profile_layers(interp.trace(vlm, fitted, batch_size=32))
ds = interp.trace(vlm, bench, batch_size=32)
scored = analysis.mean_interval(ds["exact_match"], ds["image_id"])
low, high = scored["interval"].values
display(
    Markdown(
        f"`{vlm.name}`, `{bench.name}` test: exact match **{float(scored['mean']):.2f} [{low:.2f}, {high:.2f}]**, n = {int(scored['n'])}. "
        f"Profiled layers {list(profile.layers)}, of {vlm.n_layers} in all, by AUROC on {len(fitted)} questions of `profile`."
    )
)
plots.attention_over_image(ds.isel(sample=1), bench[1].open_images()[0])

# %% [markdown]
# ## Step 4: does it see the evidence of its wrong answers?
#
# Without texts to read off regions of training scenes there is no probe, and *readable* stays unknown; *seen* needs boxes only. Where
# rows mark `distractor` regions, they are the null to quote.

# %%
plots.disconnect_table(analysis.disconnect(ds, profile))

# %% [markdown]
# ## Step 5: ways to answer, side by side
#
# A method is worth its controls. `inst` is VEA's wording on the untouched picture; `vea-shifted` and `vea-uniform` change the picture as
# much as `vea` does, elsewhere and everywhere.

# %%
answers = interp.evaluate(vlm, bench, ["base", "inst", "vea", "vea-shifted", "vea-uniform"], profile, batch_size=32)
compared = findings.compare_methods(answers)
plots.methods(compared.scores, *compared.against)

# %% [markdown]
# ## The same from a terminal
#
# ```
# interp check path/to/checkpoint
# interp trace --model path/to/checkpoint --benchmark jsonl --path my_data/questions.jsonl --split profile --out profile.zarr
# interp trace --model path/to/checkpoint --benchmark jsonl --path my_data/questions.jsonl --split test --out test.zarr
# interp profile profile.zarr --out profile.json
# interp analyze test.zarr --profile profile.json --out found
# ```
#
# A store survives being killed at any moment, and is analysed on a laptop without the model. Visual-CoT, with its boxes, is
# `interp.load_benchmark("visual-cot", annotations="textvqa_cot_train.jsonl", images="cot_images", split="train")`; a new architecture is
# one file (see CONTRIBUTING.md, *Adding a family*).
#
# Results on your checkpoint are evidence about your checkpoint. Report them with their intervals, their controls and n, as the captions
# do.
