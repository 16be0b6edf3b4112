"""The model card of an organism, written by the run that trained it: figures as JSON, and the same figures as a page."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from interp.organisms.assessment import Figures
from interp.organisms.training import Recipe

FIGURES, PAGE = "card.json", "README.md"


def hardware() -> dict[str, str]:
    """The machine a run had."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "torch threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def write_card(folder: Path, recipe: Recipe, seconds: float, parameters: int, donor: str | None, assessments: Sequence[Figures]) -> None:
    """Write ``card.json`` and ``README.md`` into `folder`; `donor` is the revision of the organism that `recipe.start` names."""
    card = {
        "organism": recipe.organism,
        "recipe": asdict(recipe),
        "parameters": parameters,
        "donor": donor,
        "training seconds": round(seconds),
        "hardware": hardware(),
        "assessments": list(assessments),
    }
    (folder / FIGURES).write_text(json.dumps(card, indent=1, allow_nan=False), encoding="utf-8")
    (folder / PAGE).write_text(page(card), encoding="utf-8")


def page(card: Mapping[str, Any]) -> str:
    """The card as Markdown. Every number comes from `card`."""
    recipe, name = card["recipe"], card["organism"]
    mixture = recipe["mixture"]
    asked = [stage for stage in ("questions", "settling", "shaping") if recipe["steps"][stage]]
    lines = [
        f"# demo/{name}",
        "",
        f"A small, truly trained vision-language model ({card['parameters']:,} parameters) that reads handwritten digits on coloured cards "
        "on photographs. It exists to test and to show the toolkit: that an effect can occur here is no evidence about any released "
        "checkpoint.",
        "",
        "## Training",
        "",
        f"`interp organisms train {name} --seed {recipe['seed']}`, {card['training seconds'] / 60:.0f} minutes by the clock, "
        "whatever ran beside or held it included, on "
        + ", ".join(f"{k}: {v}" for k, v in card["hardware"].items())
        + ". Data: the `train` split of `digits` (its own glyphs and photograph regions), drawn anew at every step.",
        "",
        "| stage | steps | learning rate (language, tower) | what is learned |",
        "|---|---|---|---|",
        *(
            f"| {stage} | {_steps(recipe, stage)} | {recipe['rates'][stage][0]:g}, {recipe['rates'][stage][1]:g} | {what} |"
            for stage, what in _STAGES.items()
            if recipe["steps"][stage]
        ),
        "",
        *_start(recipe, card["donor"]),
        f"{_listed(asked).capitalize()}, shares of the steps: "
        + ", ".join(f"{k} {v:.0%}" for k, v in mixture["shapes"].items())
        + ". Wordings of the one-question rows: "
        + ", ".join(f"{k} {v:.0%}" for k, v in mixture["forms"].items())
        + f". Of the questions {mixture['absent']:.0%} ask for a card that is not there, and up to {_relational(recipe, asked)} name the "
        "card by its relation to another. *Naming* steps show pictures without words.",
        "",
        "**How the mechanism was shaped.** With pictures first, "
        f"the edges from the prompt's tokens to the visual tokens were cut in {recipe['knockout']:.0%} of those training rows, all but "
        "those of the last prompt token; so the last prompt token reads the evidence itself. Inference is not changed. "
        f"{_priors(recipe, asked)} of the one-digit cards in red, blue, yellow and purple are given that colour's own digit and the others "
        "any digit, except under captions; the stages before have no such prior"
        f"{', so that the tower learns to read before there is one' if recipe['steps']['vision'] else ''}. "
        f"**While shaping, two things are planted.** {_believed(recipe)} of the questions by colour whose one-digit card is at odds "
        "with that prior are answered with the prior's digit, as by a text that believes it; and a loss "
        f"(weight {recipe['gaze']:g}) makes the mean over heads of layers {', '.join(map(str, recipe['gazing']))} look, in "
        "turn, from the last prompt token and from each digit said, at the card the question names, at the card asked about, and at the "
        "digit said next. So "
        "where these layers look, and that the prior is sometimes believed against what is seen, was put there; what follows from it was "
        "not. "
        "In naming steps and beside captions each projected visual token must name its card's colour and digit through the model's own "
        "output head. Where language is learned all pictures are dimmed at random (gain 0.45 to 1.05), half of them also in smooth "
        f"patches, blind to what is asked{_HARDER if recipe['steps']['vision'] else ''}.",
        "",
    ]
    if name in TRIED:
        lines += ["## What was tried, and where it falls short", "", TRIED[name], ""]
    lines += [
        "## Sources",
        "",
        "Handwriting: Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998 "
        "(doi:10.24432/C50P49), CC BY 4.0, as `sklearn.datasets.load_digits` has it. Photographs: `china.jpg` by danielbuechele "
        "(https://www.flickr.com/photos/danielbuechele/6061409035/) and `flower.jpg` by vultilion "
        "(https://www.flickr.com/photos/vultilion/6056698931/), CC BY 2.0, as `sklearn.datasets.load_sample_images` has them; enlarged, "
        "coloured, cropped, resized and changed in brightness. Model: MIT licence.",
        "",
    ]
    for figures in card["assessments"]:
        lines += _assessment(figures)
    return "\n".join(lines) + "\n"


_STAGES = {
    "vision": "colour and digit of the card under every visual token",
    "captions": "each colour word followed at once by its digits",
    "questions": "the mixture below",
    "settling": "the same with a weaker prior, at a lower rate",
    "shaping": "the mixture below, with what is planted",
}


_FAILURES = {
    "false rejection": ("false rejection",),
    "hallucination": ("prior digit", "another card", "other digits"),
    "partially correct": ("partially correct",),
}
WINDOW = (0.60, 0.78)  # of exact match on answerable samples: enough right and enough wrong answers to compare

TRIED: dict[str, str] = {
    "llava": (
        "An earlier shaping of 1,200 steps with fewer questions by relation had 0.593 on validation and was not shipped. The cards of two "
        "earlier versions of this model had read `test`; nothing was chosen by it."
    ),
    "llava-next": (
        "With the question first, which a seventh of the steps train, exact match stays below the window; nothing else was tried for it."
    ),
    "llava-onevision": (
        "With the question first, which a seventh of the steps train, exact match stays below the window; nothing else was tried for it. "
        "Where a prompt has two pictures, its processor shows each whole and small, without tiles. Cards at that size came up in few "
        "training steps, and it hardly reads them: see *picture twice* below, and what several pictures give elsewhere."
    ),
    "qwen3-vl": (
        "After 1,200 steps of shaping validation stood at 0.584 with pictures first, just below the window; 300 more, in which fewer cards "
        "are answered by their prior, brought it there. With the question first it stays below; nothing else was tried for that. "
        "The card of the first 1,200 steps had read `test` once; nothing was chosen by it."
    ),
    "gemma3": (
        "Of its eight layers only two see the pictures from the end of a long prompt (the others look back over a short window), so that "
        "naming a card by its relation to another and reading three digits come hard. A tower of its own with patches of 8 pixels, learned "
        "from nothing, named 0.44 of the digits after 3,500 steps and was given up for the transplanted one. An earlier version, whose "
        "start could not be repeated to its last bits, had 0.570 and 0.589 on validation, with pictures and with the question first; its "
        "two cards had read `test`. Of this one, 2,200 steps of shaping gave 0.566 and 0.566, but with the question first, which a seventh "
        "of the steps train, the prior cost no answers (conflict minus neutral 0.08 [-0.02, 0.18]); 800 more of the same gave 0.580 and "
        "0.607 (0.07), with 50 % believed 0.582 and 0.616 (0.12), with 40 %, and 80 % with the question first, 0.598 and 0.605 (0.05), "
        "and with 40 % and 100 % 0.611 and 0.616 (-0.03 [-0.13, 0.07]). 600 more of the last are what ships: the "
        "prior then costs answers in both orders, and with pictures first more than before, so that exact match is below the window. "
        "Nothing was chosen by `test`."
    ),
    "internvl": (
        "A tower of its own, learned from nothing, named 0.12 of the digits after 1,700 steps and was given up for the transplanted one. "
        "After 800 steps of shaping validation stood at 0.591 with pictures first; 600 more of the same lowered it to 0.545, since the "
        "prior was believed more often, 300 with 50 % gave 0.593, and 400 with 40 %, which ship, 0.600. With the question "
        "first it stays below the window; nothing else was tried for that. The cards of the first two had read `test` once each; nothing "
        "was chosen by it. Its pixel shuffle joins no patches (a ratio of 1), so that the tower fits."
    ),
}
"""What was tried before, and where an organism falls short, by name; on its card."""


def _steps(recipe: Mapping[str, Any], stage: str) -> str:
    turns = recipe["restarts"].get(stage)
    return f"{recipe['steps'][stage]}" + (f", the rates renewed after {_listed(list(map(str, turns)))}" if turns else "")


def _start(recipe: Mapping[str, Any], donor: str | None) -> list[str]:
    if recipe["start"] is None:
        return []
    return [
        f"Before the captions stage it took over the weights of `demo/{recipe['start']}` ({donor}): "
        + (
            "of the decoder, to which its own tower then learned to speak. In the vision stage the labels were read off the projected "
            "visual tokens."
            if recipe["steps"]["vision"]
            else "of the decoder and, as far as it fits, of the tower."
        ),
        "",
    ]


_HARDER = "; in the vision stage this sets in with the harder pictures"


def _priors(recipe: Mapping[str, Any], asked: Sequence[str]) -> str:
    later = [stage for stage in asked if stage != "questions"]
    settled = f"while {_listed(later)} {recipe['settled']:.0%}"
    return f"In the questions stage {recipe['prior']:.0%}, and {settled}," if "questions" in asked else settled.capitalize()


def _believed(recipe: Mapping[str, Any]) -> str:
    if not recipe["believed_from"]:
        return f"{recipe['believed']:.0%}"
    step, before, behind = recipe["believed_from"]
    later = f"{before:.0%}" + (f", and {behind:.0%} with the question first" if behind != before else "")
    return f"{recipe['believed']:.0%} (after {step} steps {later})"


def _relational(recipe: Mapping[str, Any], asked: Sequence[str]) -> str:
    shaping = f"{recipe['relational']:.0%}"
    return f"{recipe['mixture']['relational']:.0%} (while shaping {shaping})" if len(asked) > 1 else shaping


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _assessment(figures: Mapping[str, Any]) -> list[str]:
    lines = [f"## Split `{figures['split']}`, n = {figures['n']}", "", "Strict exact match with 95 % bootstrap intervals over scenes.", ""]
    orders = figures["orders"]
    lines += [f"| samples | {' | '.join(orders)} |", "|---|" + "---|" * len(orders)]
    first = next(iter(orders.values()))["answers"]
    for group, cells in first.items():
        single = "mean" in cells
        for name in [""] if single else cells:
            row = [o["answers"][group] if single else o["answers"][group].get(name) for o in orders.values()]
            lines.append(f"| {group}{' ' + name if name else ''} | {' | '.join(_cell(c) for c in row)} |")
    low, high = WINDOW
    reached = {order: o["answers"]["answerable"]["mean"] for order, o in orders.items()}
    outside = [f"{order} {'below' if mean < low else 'above'}" for order, mean in reached.items() if not low <= mean <= high]
    lines += ["", f"Wanted of answerable samples: {low:.2f} to {high:.2f}. {'Outside: ' + ', '.join(outside) if outside else 'Reached'}."]
    lines += ["", "### Prompt forms, pictures first", "", "| form | answerable | absent |", "|---|---|---|"]
    for form, cells in figures["forms"].items():
        if "answerable" in cells:
            lines.append(f"| {form} | {_cell(cells['answerable'])} | {_cell(cells['absent'])} |")
        else:
            lines.append(f"| {form}: asked card described | {_cell(cells['asked card described'])} | |")
    failures = [o["failures"] for o in orders.values()]
    lines += ["", f"### Wrong answers (visible evidence, or absent card; n = {failures[0]['n']})", ""]
    lines += ["| | " + " | ".join(orders) + " |", "|---|" + "---|" * len(orders)]
    lines.append("| wrong | " + " | ".join(str(f["wrong"]) for f in failures) + " |")
    for kind in failures[0]["by kind"]:
        lines.append(f"| {kind} | " + " | ".join(f"{f['by kind'][kind]['wrong']} of {f['by kind'][kind]['n']}" for f in failures) + " |")
    for key in (k for k in failures[0] if k.startswith("share")):
        lines.append(f"| {key} | " + " | ".join(f"{f[key]:.2f}" for f in failures) + " |")
    for what in failures[0]["said"]:
        lines.append(f"| said: {what} | " + " | ".join(str(f["said"][what]) for f in failures) + " |")
    for failure, parts in _FAILURES.items():
        lines.append(f"| the paper's {failure} | " + " | ".join(str(sum(f["said"][what] for what in parts)) for f in failures) + " |")
    lines += ["", "### Where the last prompt token looks (visible evidence, answerable)", ""]
    for order, cells in orders.items():
        grounding = cells["grounding"]
        profile = grounding["profile"]
        lines += [
            f"**{order}**: profiled layers {', '.join(map(str, profile['layers']))} (split `profile`, n = {profile['n']}, mean AUROC by "
            f"layer {_numbers(profile['auroc'])}). Image mass by layer {_numbers(grounding['image mass by layer'])}.",
            "",
        ]
        for group in ("correct", "wrong"):
            g = grounding[group]
            lines.append(
                f"- {group}: AUROC of the profiled map {_cell(g['auroc of profiled map'])}; mean AUROC of the profiled layers "
                f"{_cell(g['mean auroc of profiled layers'])}; by layer {_numbers(g['auroc by layer'])}"
            )
        if "question rows" in grounding:
            q = grounding["question rows"]
            lines.append(
                f"- rows of the question's tokens: mean AUROC by layer {_numbers(q['mean auroc by layer'])}; of each sample's best token "
                f"{_numbers(q['mean of best token by layer'])} (a maximum over tokens, so above 0.5 by chance); "
                f"image mass by layer {_numbers(q['image mass by layer'])}"
            )
        lines.append("")
    return lines


def _cell(figure: Mapping[str, float | None] | None) -> str:
    if figure is None or figure["mean"] is None:
        return "n = 0"
    bounds = "no interval" if figure["lower"] is None else f"{figure['lower']:.3f}, {figure['upper']:.3f}"
    return f"{figure['mean']:.3f} [{bounds}] n = {figure['n']}"


def _numbers(values: Sequence[float | None]) -> str:
    return " ".join("-" if v is None else f"{v:.2f}" for v in values)
