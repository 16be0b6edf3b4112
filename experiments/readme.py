"""Regenerates what README.md shows: the demo's printed tables and pictures, figures of the models that ship, tested models, measured costs.

    python -m experiments.readme [--no-demo]

With --no-demo the demo is not run, and what README.md shows of it stays. Rewrites the marked blocks of README.md and writes, from the
figures of the demo (needs Chrome or Chromium),
    experiments/readme/layer_maps.png         attention on one picture, layer by layer
    experiments/readme/disconnect_table.png   seen, readable, correct
    experiments/readme/methods.png            methods with intervals and paired differences
The organism's figures come from its card.json, the table and figure of all models from experiments/results/families, the central finding
of each from experiments/results/reproduced, the costs from experiments/performance/results/*.md; the matrix of tested models is what
`interp check` finds, of every model that ships and of a small random one per family.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import cyclopts
import pandas as pd
import torch

import interp
from experiments.families import WORDS
from experiments.reproduced import central_table
from interp.demo import shipped
from interp.testing import TINY, tiny_vlm

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "experiments" / "readme"
SHOWN = ("layer_maps", "disconnect_table", "methods")
RESULTS = ROOT / "experiments" / "performance" / "results"
COSTS = {"performance": "capture.md", "head-sweep": "head_sweep.md", "grounding": "grounding.md", "memory": "analysis_memory.md"}


def main(*, demo: bool = True) -> None:
    """Rewrite the blocks and the pictures; the demo's only where `demo`."""
    blocks = {"demo": _drawn()} if demo else {}
    blocks |= {
        "tested-models": tested_models(),
        "organism": organism_table(json.loads((files("interp.organisms") / "llava" / "card.json").read_text(encoding="utf-8"))),
    }
    blocks["families"] = families_table(ROOT / "experiments" / "results" / "families")
    blocks["reproduced"] = central_of_all(ROOT / "experiments" / "results" / "reproduced")
    blocks["causal"] = _bullets((ROOT / "experiments" / "results" / "causal" / "summary.md").read_text(encoding="utf-8"))
    blocks |= {block: (RESULTS / file).read_text(encoding="utf-8").strip() for block, file in COSTS.items()}
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, text in blocks.items():
        block = f"<!-- {name} -->\n{text}\n<!-- /{name} -->"
        page, found = re.subn(rf"<!-- {name} -->\n.*?<!-- /{name} -->", lambda _, block=block: block, page, flags=re.DOTALL)
        if found != 1:
            raise SystemExit(f"README.md has {found} blocks {name!r}; it must have one.")
    (ROOT / "README.md").write_text(page, encoding="utf-8")


def _drawn() -> str:
    """Runs the demo and keeps its pictures; what it printed, as Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        printed = _demo(Path(folder))
        PICTURES.mkdir(exist_ok=True)
        for name in SHOWN:
            shutil.copyfile(Path(folder) / f"{name}.png", PICTURES / f"{name}.png")
    return "```\n" + printed + "\n```"


def families_table(folder: Path) -> str:
    """What was run, the table and the figure of all models side by side, as `experiments.families` left them."""
    if not (folder / "summary.md").is_file():
        return "Not run yet: `python -m experiments.families`."
    text = (folder / "summary.md").read_text(encoding="utf-8").partition("\n\n")[2].partition(f"\n\n{WORDS}")[0]
    drawn = folder / "across_models.png"
    return f"{text}\n\n![Models side by side]({drawn.relative_to(ROOT).as_posix()})" if drawn.is_file() else text


def central_of_all(folder: Path) -> str:
    """The central finding of every model, both orders and nulls, as `experiments.reproduced` left it."""
    if not (folder / "central.csv").is_file():
        return "Not run yet: `python -m experiments.reproduced`."
    about = (
        "Shares of the wrong, and of the right, answers that were judged, with 95 % bootstrap intervals over pictures; p-values two-sided, "
        "Holm within a model. Probes of what is readable were fitted on `train`, layers chosen on `profile`, answers are of `test`."
    )
    return f"{central_table(pd.read_csv(folder / 'central.csv'))}\n\n{about}"


def _bullets(summary: str) -> str:
    """What was run, without the heading, and what was found, of the causal study."""
    return summary.partition("\n\n")[2].strip()


def _demo(folder: Path) -> str:
    command = [sys.executable, "-c", "from interp.cli import main; main()", "demo", "--out", str(folder)]
    environment = os.environ | {"COLUMNS": "110", "NO_COLOR": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    lines = [line.rstrip() for line in done.stdout.strip().splitlines()]
    return "\n".join(line for line in lines if not line.startswith("wrote "))


def tested_models() -> str:
    """Certificates as Markdown: every model that ships with the package, and a small random one of every family."""
    vlms = [*map(interp.load_vlm, shipped()), *(tiny_vlm(name) for name in TINY), tiny_vlm(TINY[0], dtype=torch.bfloat16)]
    certificates = [interp.check(vlm, progress=False) for vlm in vlms]
    known = {name.removeprefix("version_"): value for name, value in certificates[0].provenance.items() if name.startswith("version_")}
    versions = ", ".join(f"{name} {known[name]}" for name in ("interp", "torch", "transformers", "nnsight"))
    backend = certificates[0].provenance["image_backend"]
    about = (
        "`tiny/NAME` is no checkpoint but a small model of that architecture with random weights (4 layers, pictures of 28 px): it proves "
        f"the code, not a release. Run `interp check MODEL` on yours. Picture backend {backend}; {versions}."
    )
    return "\n".join([interp.certificate.matrix(certificates), "", about])


def organism_table(card: dict[str, Any]) -> str:
    """The card's main figures on the test split, both prompt orders, as Markdown."""
    test = next(a for a in card["assessments"] if a["split"] == "test")
    orders = test["orders"]
    rows: list[tuple[str, list[dict[str, float]]]] = [
        (f"exact match, {label}", [_at(o["answers"], *path) for o in orders.values()])
        for label, path in {
            "answerable": ("answerable",),
            "plain": ("kind", "plain"),
            "by relation": ("kind", "relation"),
            "prior arm congruent": ("arm", "congruent"),
            "prior arm neutral": ("arm", "neutral"),
            "prior arm conflict": ("arm", "conflict"),
            "absent card": ("absent",),
        }.items()
    ]
    for group in ("correct", "wrong"):
        rows.append(
            (f"AUROC of the profiled map, {group} answers", [o["grounding"][group]["auroc of profiled map"] for o in orders.values()])
        )
    lines = [f"| `digits` {test['split']}, n = {test['n']} | {' | '.join(orders)} |", "|---|" + "---|" * len(orders)]
    for label, cells in rows:
        shown = [f"{c['mean']:.2f} [{c['lower']:.2f}, {c['upper']:.2f}], n = {c['n']}" for c in cells]
        lines.append(f"| {label} | {' | '.join(shown)} |")
    return "\n".join(
        [*lines, "", "95 % bootstrap intervals over scenes; AUROC on answerable samples whose evidence the model can see whole."]
    )


def _at(tree: dict[str, Any], *path: str) -> dict[str, float]:
    for key in path:
        tree = tree[key]
    return tree


if __name__ == "__main__":
    cyclopts.run(main)
