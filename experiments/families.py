"""Every model that ships with the package, asked the same questions: one row a model, whichever way it comes out.

    python -m experiments.families [--limit 500] [--models NAME ...] [--out results/families]

Each model is profiled on the split `profile`, its probe fitted on `train`, and judged on `test`, by `interp.demo`; stores, tables and
figures of each go to OUT/NAME, and the same command takes an interrupted run up again. Writes into experiments/results/families:
    summary.md              what was run, the table with intervals, and what it says of each model
    table.csv               the same numbers, a row for each model and quantity
    across_models.png       the figure (where no Chrome or Chromium is found across_models.html and its script instead)
    run.json                models with revisions, layers and seconds; machine, versions and time
The numbers of the other prompt order are those in the model's own card.json, where it has one. A model that cannot be run is named as
missing, and the command then fails after the others are written.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter
from rich.console import Console

from interp.demo import SideBySide, run_all
from interp.errors import InterpError

RESULTS = Path(__file__).resolve().parent / "results" / "families"
KEPT = ("summary.md", "table.csv", "across_models.png", "across_models.html", "plotly.min.js", "run.json")
WORDS = "## In words"

app = cyclopts.App(name="families", help=__doc__)
_out = Console(soft_wrap=True)


@app.default
def main(
    *,
    limit: int = 500,
    models: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    n_profile: int = 200,
    n_train: int = 1500,
    out: Path = Path("results/families"),
    results: Path = RESULTS,
) -> None:
    """Run all models and write table, figure and summary.

    Parameters
    ----------
    limit
        Test samples.
    models
        Names or folders of the models; by default all that ship with the package.
    n_profile, n_train
        Samples that layers and probes are fitted on.
    out
        Folder for the stores, tables and figures of each model.
    results
        Folder for what is kept.

    Raises
    ------
    InterpError
        A model could not be run. What the others gave is then written all the same.
    """

    def report(what: str) -> None:
        _out.print(what, highlight=False, markup=False)

    done = run_all(models, limit, out, n_profile=n_profile, n_train=n_train, resume_command="the same command", report=report)
    results.mkdir(parents=True, exist_ok=True)
    for name in KEPT:  # no figure of an earlier run may stand beside this run's table
        (results / name).unlink(missing_ok=True)
    ran = provenance(done, limit)
    (results / "run.json").write_text(json.dumps(ran, indent=1) + "\n", encoding="utf-8")
    (results / "summary.md").write_text(summary(done, ran), encoding="utf-8")
    shutil.copyfile(out / "across_models.csv", results / "table.csv")
    drawn = {"across_models.png"} if (out / "across_models.png") in done.files else {"across_models.html", "plotly.min.js"}
    for name in sorted(drawn):
        shutil.copyfile(out / name, results / name)
    for line in [*done.sentences, *done.notes, f"wrote {results}"]:
        report(line)
    done.refuse_failed()


def summary(done: SideBySide, ran: dict[str, Any]) -> str:
    """What was run, the table, and each model in words, as Markdown."""
    about, machine = done.table.attrs, ran["machine"]
    spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in done.seconds.items())
    how_many = "1 model" if len(done.seconds) == 1 else f"{len(done.seconds)} models"
    head = (
        f"{how_many}, `{about['benchmark']}` {about['split']}, n = {ran['limit']} each. Time {ran['seconds'] / 60:.1f} min ({spent}) on "
        f"{machine['processor']}, {machine['cores']} cores, whatever ran beside included; {ran['time'][:10]}, interp "
        f"{ran['versions']['interp']}."
    )
    missing = [f"Missing: {name}, which could not be run. {reason}" for name, reason in done.failed.items()]
    words = "\n".join(f"- {sentence}" for sentence in done.sentences)
    return "\n\n".join(["# Models side by side", head, *missing, done.markdown(), WORDS, words]) + "\n"


def provenance(done: SideBySide, limit: int) -> dict[str, Any]:
    """What was run, on which models, on which machine, and when."""
    revisions, layers, counts = (json.loads(done.table.attrs[name]) for name in ("revisions", "profiled_layers", "n"))
    return {
        "limit": limit,
        "models": {
            name: {"revision": revisions[name], "profiled layers": layers[name], "n": counts[name], "seconds": round(seconds, 1)}
            for name, seconds in done.seconds.items()
        },
        "failed": done.failed,
        "seconds": round(sum(done.seconds.values()), 1),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in ("interp", "torch", "transformers", "nnsight")},
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


if __name__ == "__main__":
    try:
        app()
    except InterpError as error:
        sys.exit(f"error: {error}")
