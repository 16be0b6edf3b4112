"""The small trained models that ship with the package, and how they are trained.

``demo/NAME`` is the folder NAME beside this file: what `save_pretrained` wrote, a model card and the training log.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interp.errors import OrganismError

ORGANISMS: dict[str, str] = {
    "llava": "interp.organisms.llava",
    "llava-next": "interp.organisms.llava_next",
    "llava-onevision": "interp.organisms.llava_onevision",
    "qwen2.5-vl": "interp.organisms.qwen2_5_vl",
    "qwen3-vl": "interp.organisms.qwen3_vl",
    "gemma3": "interp.organisms.gemma3",
    "internvl": "interp.organisms.internvl",
}
"""Name -> module with ``build(seed) -> (model, processor)``."""

WORK = ".training"


def train_organism(
    name: str,
    out: str | Path,
    *,
    seed: int = 0,
    stop_after: int | None = None,
    report: Callable[[dict[str, Any], int], None] = lambda record, total: None,
) -> Path | None:
    """Train an organism into folder `out`, or take up a run that was interrupted there; then write its model card.

    Parameters
    ----------
    name
        One of `ORGANISMS`.
    out
        Receives the checkpoint, `README.md`, `card.json` and `training_log.jsonl`; the run's state stays in ``out/.training``.
    seed
        Everything random follows from it. On one thread of the same machine a run repeats exactly.
    stop_after
        Leave after so many steps (of all stages together), ready to be resumed.
    report
        Called with each step's record and the number of all steps.

    Returns
    -------
    Path or None
        The finished folder, or None if the run was left unfinished.

    Raises
    ------
    OrganismError
        Unknown name, or `out` holds a run with other settings, or something that is no run.
    """
    if name not in ORGANISMS:
        raise OrganismError(f"Organism {name!r} is unknown; use one of {', '.join(ORGANISMS)}.")
    folder = Path(out)
    if folder.exists() and not (folder / WORK).is_dir() and (not folder.is_dir() or any(folder.iterdir())):
        raise OrganismError(f"Folder {str(folder)!r} exists and holds no training run; give a new or an empty folder with --out.")

    from interp.loading import fingerprint, load_vlm
    from interp.organisms.assessment import assess
    from interp.organisms.blueprint import name_video_part
    from interp.organisms.card import FIGURES, write_card
    from interp.organisms.recipes import recipe_for
    from interp.organisms.training import Run

    recipe = recipe_for(name, seed)
    model, processor = importlib.import_module(ORGANISMS[name]).build(seed)
    donor = Path(__file__).parent / recipe.start if recipe.start is not None else None
    run = Run(recipe, model, processor, folder / WORK, donor)
    run.resume()
    total = sum(recipe.steps.values())
    done = run.steps_done
    if stop_after is None or done < stop_after:
        for record in run.steps():
            done += 1
            report(record | {"done": done}, total)
            if stop_after is not None and done >= stop_after:
                run.save()
                break
    if done < total:
        return None
    if (folder / FIGURES).exists():  # the test split is read once
        return folder
    model.set_attn_implementation("sdpa")
    # Half the bytes on disk; the configuration says float32, which is what loading makes of them.
    model.save_pretrained(folder, state_dict={name: value.half() for name, value in model.state_dict().items()})
    processor.save_pretrained(folder)
    name_video_part(folder)
    shutil.copyfile(folder / WORK / "log.jsonl", folder / "training_log.jsonl")
    revision = fingerprint(donor) if donor is not None else None
    figures = [assess(lambda order: load_vlm(folder, prompt_order=order), split) for split in ("validation", "test")]
    write_card(folder, recipe, run.seconds, sum(p.numel() for p in model.parameters()), revision, figures)
    return folder
