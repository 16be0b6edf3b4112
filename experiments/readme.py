"""Regenerates what README.md shows: the demo's printed tables and picture, the organism's figures, the cost of row capture.

    python -m experiments.readme

Rewrites the marked blocks of README.md and writes
    experiments/readme/attention_over_image.png   the demo's figure (needs Chrome or Chromium)
The organism's figures come from its card.json, the cost from experiments/performance/results/capture.md.
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

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "experiments" / "readme"
COST = ROOT / "experiments" / "performance" / "results" / "capture.md"


def main() -> None:
    """Rewrite the blocks and the picture."""
    with tempfile.TemporaryDirectory() as folder:
        printed = _demo(Path(folder))
        PICTURES.mkdir(exist_ok=True)
        shutil.copyfile(Path(folder) / "attention_over_image.png", PICTURES / "attention_over_image.png")
    blocks = {
        "demo": "```\n" + printed.replace(folder, "results/demo") + "\n```",
        "organism": organism_table(json.loads((files("interp.organisms") / "llava" / "card.json").read_text(encoding="utf-8"))),
    }
    if COST.exists():
        blocks["performance"] = COST.read_text(encoding="utf-8").strip()
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, text in blocks.items():
        block = f"<!-- {name} -->\n{text}\n<!-- /{name} -->"
        page = re.sub(rf"<!-- {name} -->\n.*?<!-- /{name} -->", lambda _, block=block: block, page, flags=re.DOTALL)
    (ROOT / "README.md").write_text(page, encoding="utf-8")


def _demo(folder: Path) -> str:
    command = [sys.executable, "-c", "from interp.cli import main; main()", "demo", "--out", str(folder)]
    environment = os.environ | {"COLUMNS": "110", "NO_COLOR": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


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
    main()
