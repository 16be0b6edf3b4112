"""Training an organism: dense vision, captions, questions, settling. Seeded, resumable, logged.

Why stages: from an answer loss alone nothing is learned; once every visual token knows its card's colour and digit, captions (each
colour word followed at once by its digits) bind the two, and questions then need little more. Under a strong prior a card's colour answers
for its digit, and answers come with less of a look; settling asks the same questions under a weaker one. Shaping makes the failure
that the toolkit is for: deep layers are made to look at the evidence, and a share of the cards that are at odds with their colour's
prior is answered with the prior's digit all the same, as by a text that believes it.

Why the knock-out: with pictures first, the colour word of the question would read the evidence and the last token would read the
colour word. Cutting the edges from question tokens to visual tokens in most training rows makes the last prompt token read the
evidence itself, as the paper reports of released models; inference is not changed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from interp.benchmarks.digits import TRAIN_PRIOR
from interp.benchmarks.digits.scene import COLOURS
from interp.errors import OrganismError
from interp.organisms.batches import STAGES, Batch, Draws, Looks
from interp.organisms.layout import Layout
from interp.organisms.mixture import Asker, Mixture
from interp.organisms.passes import Passes
from interp.organisms.transplant import transplant


@dataclass(frozen=True)
class Recipe:
    """What a training run depends on. `steps` and `rates` (language, tower) go by stage; rates decay by a cosine to a twentieth.

    `restarts`: by stage, the steps after which its rates warm up and decay again.
    `start`: the organism whose weights this one takes over where words begin, as far as they fit; without a vision stage the tower's too.
    `prior`: see `interp.benchmarks.digits.TRAIN_PRIOR`; `settled`: the same while settling and shaping. `knockout`: share of rows
    whose question cannot see the image. `ramp`: the shares of the vision stage between which its pictures become hard. `labelled`: see
    `Draws`. `naming`: weight, beside captions, of the loss that makes visual tokens name their card. `relational`: see `Mixture`, while
    shaping. `believed`: share of the cards against their prior that shaping answers with the prior's digit; `believed_from`: from which of
    its steps on that share is another, with pictures first and with the question first. `gaze`: weight of the loss that makes layers
    `gazing` look at the card the question names, at the card asked about, and at the digit said next.
    """

    organism: str = "llava"
    start: str | None = None
    seed: int = 0
    steps: dict[str, int] = field(
        default_factory=lambda: {"vision": 5000, "captions": 900, "questions": 4000, "settling": 800, "shaping": 1800}
    )
    rates: dict[str, tuple[float, float]] = field(
        default_factory=lambda: {
            "vision": (2e-3, 2e-3),
            "captions": (1e-3, 3e-4),
            "questions": (1e-3, 5e-4),
            "settling": (3e-4, 1.5e-4),
            "shaping": (5e-4, 2.5e-4),
        }
    )
    restarts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    prior: float = TRAIN_PRIOR
    settled: float = 0.5
    knockout: float = 0.8
    ramp: tuple[float, float] = (0.6, 0.85)
    labelled: float = 0.1
    naming: float = 0.5
    believed: float = 0.6
    believed_from: tuple[int, float, float] | None = None
    relational: float = 0.36
    gaze: float = 0.3
    gazing: tuple[int, int, int] = (3, 4, 5)
    mixture: Mixture = field(default_factory=Mixture)
    weight_decay: float = 0.01
    warmup: int = 100
    checkpoint_every: int = 100


class Run:
    """One training run in a folder: `state.pt` (weights, optimiser, place) and `log.jsonl`, one line every ten steps.

    `donor` is the folder of the organism that `recipe.start` names; without it a started run keeps the decoder it was built with.
    """

    def __init__(self, recipe: Recipe, model: Any, processor: Any, folder: Path, donor: Path | None = None) -> None:
        self.recipe, self.model, self.folder, self.donor = recipe, model, folder, donor
        layout = Layout(processor, model.config)
        self.passes = Passes(model, layout)
        # A tower that is joined to a given decoder learns together with what joins it.
        sizes = model.config.vision_config if recipe.start is None else model.config.get_text_config()
        width = sizes.hidden_size
        self.heads = nn.ModuleList([nn.Linear(width, classes) for classes in (len(COLOURS) + 1, 11, 7)])
        asker = Asker(layout, recipe.mixture)
        first, last = (round(recipe.steps["vision"] * share) for share in recipe.ramp)
        self.draws = Draws(
            asker,
            seed=recipe.seed,
            prior=recipe.prior,
            settled=recipe.settled,
            knockout=recipe.knockout,
            ramp=(first, last),
            believed=recipe.believed,
            believed_from=recipe.believed_from,
            labelled=recipe.labelled,
            relational=recipe.relational,
        )
        self.stage, self.step = STAGES[0], 0
        self.seconds = 0.0
        self.optimiser = self._optimiser()
        folder.mkdir(parents=True, exist_ok=True)

    def resume(self) -> bool:
        """Take up the folder's last checkpoint, if there is one.

        Raises
        ------
        OrganismError
            The checkpoint was made by another recipe; the differing settings are named.
        """
        path = self.folder / "state.pt"
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True)
        mine = json.loads(json.dumps(asdict(self.recipe)))
        differing = sorted(k for k in mine if mine[k] != state["recipe"].get(k))
        if differing:
            raise OrganismError(
                f"Folder {str(self.folder)!r} holds a run with another {', '.join(differing)}; give an empty folder or the same settings."
            )
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.stage, self.step, self.seconds = state["stage"], state["step"], state["seconds"]
        self.optimiser = self._optimiser()
        self.optimiser.load_state_dict(state["optimiser"])
        self._forget_later_notes()
        return True

    def steps(self) -> Iterator[dict[str, Any]]:
        """Train to the end, yielding a record a step: stage, step, loss and accuracy of the first answer token (or patch digit)."""
        for stage in STAGES[STAGES.index(self.stage) :]:
            if stage != self.stage:
                if self.stage == STAGES[0] and self.donor is not None:
                    transplant(self.model, self.draws.asker.tokenizer, self.donor, tower=self.recipe.steps[STAGES[0]] == 0)
                self.stage, self.step = stage, 0
                self.optimiser = self._optimiser()
            while self.step < self.recipe.steps[stage]:
                start = time.perf_counter()
                record = {"stage": stage, "step": self.step + 1} | self._update(self.draws(stage, self.step))
                self.step += 1
                self.seconds += time.perf_counter() - start
                if self.step % 10 == 0:
                    self._note(record | {"seconds": round(self.seconds, 1)})
                if self.step % self.recipe.checkpoint_every == 0 or self.step == self.recipe.steps[stage]:
                    self.save()
                yield record

    @property
    def steps_done(self) -> int:
        """Steps taken, all stages together."""
        return sum(self.recipe.steps[stage] for stage in STAGES[: STAGES.index(self.stage)]) + self.step

    def _update(self, batch: Batch) -> dict[str, Any]:
        turns = (0, *self.recipe.restarts.get(self.stage, ()), self.recipe.steps[self.stage])
        first, last = next((a, b) for a, b in pairwise(turns) if self.step < b)
        progress = (self.step - first) / (last - first)
        decay = max(0.05, 0.5 * (1 + torch.tensor(progress * torch.pi).cos().item()))
        scale = min(1.0, (self.step - first + 1) / self.recipe.warmup) * decay
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * scale
        self.model.train()
        if batch.ids is not None:
            loss, record = self._language_loss(batch)
        else:
            loss, record = self._vision_loss(batch) if self.stage == "vision" else self._naming_only(batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        return {"loss": round(loss.item(), 5)} | record

    def _vision_loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, Any]]:
        assert batch.dense is not None
        with torch.autocast("cpu", torch.bfloat16):
            if self.recipe.start is None:
                hidden = self.model.model.vision_tower(batch.pictures["pixel_values"]).last_hidden_state[:, 1:]
            else:
                hidden = self.passes.features(batch.pictures).unflatten(0, batch.dense.shape[:2])
            guesses = [head(hidden).float() for head in self.heads]
        losses = [nn.functional.cross_entropy(g.flatten(0, 1), batch.dense[..., k].flatten()) for k, g in enumerate(guesses)]
        on_card = batch.dense[..., 1] > 0
        digit = (guesses[1].argmax(-1) == batch.dense[..., 1])[on_card].float().mean().item()
        colour = (guesses[0].argmax(-1) == batch.dense[..., 0])[on_card].float().mean().item()
        return torch.stack(losses).sum(), {"accuracy": round(digit, 4), "colour": round(colour, 4)}

    def _language_loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, Any]]:
        assert batch.ids is not None and batch.weights is not None and batch.first_answer is not None
        looks = batch.looks if self.stage == "shaping" else None
        with torch.autocast("cpu", torch.bfloat16):
            seen = self.passes(batch, attend=self.recipe.gazing if looks is not None else ())
            weights = batch.weights[:, 1:]
            wanted = weights > 0
            logits = self.model.lm_head(seen.states[:, :-1][wanted]).float()
        targets = batch.ids[:, 1:][wanted]
        losses = nn.functional.cross_entropy(logits, targets, reduction="none")
        loss = (losses * weights[wanted]).sum() / weights[wanted].sum()
        if batch.dense is not None:
            loss = loss + self.recipe.naming * self._naming_loss(seen.features, batch.dense)[0]
        hits = torch.zeros_like(weights)
        hits[wanted] = (logits.argmax(-1) == targets).float()
        # The first target of full weight: a caption's first digit, an answer's first token. Later ones can be had by elimination.
        first = hits[torch.arange(len(hits)), (weights == 1).float().argmax(1)]
        by_kind = {
            kind: round(first[[k for k, each in enumerate(batch.kinds) if each == kind]].mean().item(), 4)
            for kind in sorted(set(batch.kinds))
        }
        record: dict[str, Any] = {"accuracy": round(hits[weights == 1].mean().item(), 4), "first": by_kind}
        if looks is not None:
            gaze, masses = _gaze_loss(looks, seen.attentions)
            loss = loss + self.recipe.gaze * gaze
            record["looked"] = masses
        return loss, record

    def _naming_only(self, batch: Batch) -> tuple[torch.Tensor, dict[str, Any]]:
        """Pictures without words: the naming loss alone, which goes on teaching the tower to read while questions are learned."""
        assert batch.dense is not None
        with torch.autocast("cpu", torch.bfloat16):
            features = self.passes.features(batch.pictures)
        loss, accuracy = self._naming_loss(features, batch.dense)
        return loss, {"accuracy": accuracy, "first": {"naming": accuracy}}

    def _naming_loss(self, features: torch.Tensor, dense: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Each projected visual token of a card must name the card's colour and digit through the model's own output head.

        Returns the loss and the share of such tokens that name the right digit.
        """
        with torch.autocast("cpu", torch.bfloat16):
            spoken = self.model.model.language_model.norm(features)[dense.flatten(0, 1)[:, 0] > 0]
            logits = self.model.lm_head(spoken).float()
        labels = dense.flatten(0, 1)[dense.flatten(0, 1)[:, 0] > 0] - 1
        colours, digits = (self.draws.asker.words(list(words)) for words in (COLOURS, "0123456789"))
        cross_entropy = nn.functional.cross_entropy
        accuracy = (logits[:, digits].argmax(-1) == labels[:, 1]).float().mean().item()
        return cross_entropy(logits[:, colours], labels[:, 0]) + cross_entropy(logits[:, digits], labels[:, 1]), round(accuracy, 4)

    def _optimiser(self) -> torch.optim.AdamW:
        language, tower = self.recipe.rates[self.stage]
        inner = self.model.model
        spoken = {id(p) for p in (*inner.language_model.parameters(), *self.model.lm_head.parameters())}
        if self.recipe.start is None:
            seeing = [*inner.vision_tower.parameters(), *self.heads.parameters()]
        else:  # what joins the tower to a decoder that is given learns with the tower
            seeing = [*(p for p in self.model.parameters() if id(p) not in spoken), *self.heads.parameters()]
        groups: list[dict[str, Any]] = [{"params": seeing, "lr": tower, "peak": tower}]
        if self.stage != "vision":
            seen = {id(p) for p in seeing}
            rest = [p for p in self.model.parameters() if id(p) not in seen]
            groups.append({"params": rest, "lr": language, "peak": language})
        return torch.optim.AdamW(groups, weight_decay=self.recipe.weight_decay, betas=(0.9, 0.98))

    def _forget_later_notes(self) -> None:
        """Drop the log's lines past the checkpoint: those steps are taken again."""
        path = self.folder / "log.jsonl"
        if path.exists():
            here = (STAGES.index(self.stage), self.step)
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if (STAGES.index((note := json.loads(line))["stage"]), note["step"]) <= here]
            path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def _note(self, record: dict[str, Any]) -> None:
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def save(self) -> None:
        """Write the checkpoint; a kill at any moment leaves the old one or the new one."""
        state = {
            "recipe": json.loads(json.dumps(asdict(self.recipe))),
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "stage": self.stage,
            "step": self.step,
            "seconds": self.seconds,
        }
        temporary = self.folder / "state.pt.partial"
        torch.save(state, temporary)
        os.replace(temporary, self.folder / "state.pt")


def _gaze_loss(looks: Looks, attentions: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, list[float]]:
    """How far the heads' mean attention of each layer is from its target tokens: that it lies on them, and on all of them alike.

    Returns the sum over layers, and per layer the mean share of attention on the target.
    """
    losses, masses = [], []
    for weights, target in zip(attentions, looks.targets, strict=True):
        row = weights[looks.row, :, looks.position].mean(1)
        mass = (row * target).sum(1)
        spread = ((row + 1e-6).log() * target).sum(1) / target.sum(1).clamp(min=1)
        losses.append(-(spread + (mass + 1e-6).log()).mean())
        masses.append(round(mass.mean().item(), 4))
    return torch.stack(losses).sum(), masses
