"""Training an organism: dense vision, captions, questions, settling. Seeded, resumable, logged.

Why stages: from an answer loss alone nothing is learned; once every visual token knows its card's colour and digit, captions (each
colour word followed at once by its digits) bind the two, and questions then need little more. Under a strong prior a card's colour answers
for its digit, and answers come with less of a look; settling asks the same questions under a weaker one.

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
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from interp.benchmarks.digits import TRAIN_PRIOR
from interp.benchmarks.digits.scene import COLOURS
from interp.errors import OrganismError
from interp.organisms.batches import STAGES, Batch, Draws
from interp.organisms.mixture import Asker, Mixture


@dataclass(frozen=True)
class Recipe:
    """What a training run depends on. `steps` and `rates` (language, tower) go by stage; rates decay by a cosine to a twentieth.

    `prior`: see `interp.benchmarks.digits.TRAIN_PRIOR`; `settled`: the same in the settling stage. `knockout`: share of rows whose question
    cannot see the image.
    `ramp`: the shares of the vision stage between which its pictures become hard.
    `naming`: weight, beside captions, of the loss that makes visual tokens name their card.
    """

    organism: str = "llava"
    seed: int = 0
    steps: dict[str, int] = field(default_factory=lambda: {"vision": 5000, "captions": 900, "questions": 4000, "settling": 800})
    rates: dict[str, tuple[float, float]] = field(
        default_factory=lambda: {"vision": (2e-3, 2e-3), "captions": (1e-3, 3e-4), "questions": (1e-3, 5e-4), "settling": (3e-4, 1.5e-4)}
    )
    prior: float = TRAIN_PRIOR
    settled: float = 0.5
    knockout: float = 0.8
    ramp: tuple[float, float] = (0.6, 0.85)
    naming: float = 0.5
    mixture: Mixture = field(default_factory=Mixture)
    weight_decay: float = 0.01
    warmup: int = 100
    checkpoint_every: int = 100


class Run:
    """One training run in a folder: `state.pt` (weights, optimiser, place) and `log.jsonl`, one line every ten steps."""

    def __init__(self, recipe: Recipe, model: Any, processor: Any, folder: Path) -> None:
        self.recipe, self.model, self.folder = recipe, model, folder
        self.tokens_per_image = model.config.image_seq_length
        width = model.config.vision_config.hidden_size
        self.heads = nn.ModuleList([nn.Linear(width, classes) for classes in (len(COLOURS) + 1, 11, 7)])
        asker = Asker(processor.tokenizer, model.config.image_token_id, self.tokens_per_image, recipe.mixture)
        first, last = (round(recipe.steps["vision"] * share) for share in recipe.ramp)
        grid = round(self.tokens_per_image**0.5)
        self.draws = Draws(processor, asker, grid, recipe.seed, recipe.prior, recipe.settled, recipe.knockout, (first, last))
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
        progress = self.step / self.recipe.steps[self.stage]
        scale = min(1.0, (self.step + 1) / self.recipe.warmup) * max(0.05, 0.5 * (1 + torch.tensor(progress * torch.pi).cos().item()))
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
        with torch.autocast(batch.pixels.device.type, torch.bfloat16):
            hidden = self.model.model.vision_tower(batch.pixels).last_hidden_state[:, 1:]
            guesses = [head(hidden).float() for head in self.heads]
        losses = [nn.functional.cross_entropy(g.flatten(0, 1), batch.dense[..., k].flatten()) for k, g in enumerate(guesses)]
        on_card = batch.dense[..., 1] > 0
        digit = (guesses[1].argmax(-1) == batch.dense[..., 1])[on_card].float().mean().item()
        colour = (guesses[0].argmax(-1) == batch.dense[..., 0])[on_card].float().mean().item()
        return torch.stack(losses).sum(), {"accuracy": round(digit, 4), "colour": round(colour, 4)}

    def _language_loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, Any]]:
        assert batch.ids is not None and batch.weights is not None and batch.first_answer is not None
        with torch.autocast(batch.pixels.device.type, torch.bfloat16):
            features = self._features(batch.pixels)
            hidden = self._hidden(batch, features)
            weights = batch.weights[:, 1:]
            wanted = weights > 0
            logits = self.model.lm_head(hidden[:, :-1][wanted]).float()
        targets = batch.ids[:, 1:][wanted]
        losses = nn.functional.cross_entropy(logits, targets, reduction="none")
        loss = (losses * weights[wanted]).sum() / weights[wanted].sum()
        if batch.dense is not None:
            loss = loss + self.recipe.naming * self._naming_loss(features, batch.dense)[0]
        hits = torch.zeros_like(weights)
        hits[wanted] = (logits.argmax(-1) == targets).float()
        # The first target of full weight: a caption's first digit, an answer's first token. Later ones can be had by elimination.
        first = hits[torch.arange(len(hits)), (weights == 1).float().argmax(1)]
        by_kind = {
            kind: round(first[[k for k, each in enumerate(batch.kinds) if each == kind]].mean().item(), 4)
            for kind in sorted(set(batch.kinds))
        }
        return loss, {"accuracy": round(hits[weights == 1].mean().item(), 4), "first": by_kind}

    def _naming_only(self, batch: Batch) -> tuple[torch.Tensor, dict[str, Any]]:
        """Pictures without words: the naming loss alone, which goes on teaching the tower to read while questions are learned."""
        assert batch.dense is not None
        with torch.autocast(batch.pixels.device.type, torch.bfloat16):
            features = self._features(batch.pixels)
        loss, accuracy = self._naming_loss(features, batch.dense)
        return loss, {"accuracy": accuracy, "first": {"naming": accuracy}}

    def _naming_loss(self, features: torch.Tensor, dense: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Each projected visual token of a card must name the card's colour and digit through the model's own output head.

        Returns the loss and the share of such tokens that name the right digit.
        """
        with torch.autocast(features.device.type, torch.bfloat16):
            spoken = self.model.model.language_model.norm(features)[dense.flatten(0, 1)[:, 0] > 0]
            logits = self.model.lm_head(spoken).float()
        labels = dense.flatten(0, 1)[dense.flatten(0, 1)[:, 0] > 0] - 1
        colours, digits = (self.draws.asker.words(list(words)) for words in (COLOURS, "0123456789"))
        cross_entropy = nn.functional.cross_entropy
        accuracy = (logits[:, digits].argmax(-1) == labels[:, 1]).float().mean().item()
        return cross_entropy(logits[:, colours], labels[:, 0]) + cross_entropy(logits[:, digits], labels[:, 1]), round(accuracy, 4)

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Projected visual tokens (image * token, width)."""
        features = self.model.model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
        return torch.cat(list(features)) if isinstance(features, list | tuple) else features.flatten(0, 1)

    def _hidden(self, batch: Batch, features: torch.Tensor) -> torch.Tensor:
        """Last hidden states of the rows (row, t, width). A scene's pictures are read once and their keys shared by its rows."""
        assert batch.ids is not None and batch.readers is not None
        decoder, pad = self.model.model.language_model, torch.finfo(torch.float32).min
        length = batch.ids.shape[1]
        if batch.prefix is None:
            return decoder(inputs_embeds=self._embed(batch.ids, features), use_cache=False).last_hidden_state
        scenes, before = batch.prefix.shape
        cache = DynamicCache()
        decoder(inputs_embeds=self._embed(batch.prefix, features), past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(batch.ids) // scenes)
        causal = torch.full((length, length), pad).triu(1)
        mask = torch.zeros(len(batch.ids), 1, length, before + length)
        mask[..., before:] = causal
        # Whatever follows the first visual token may have read it: the line break between two pictures is hidden as well.
        seen = (batch.prefix[0] == self.model.config.image_token_id).cumsum(0) > 0
        blind = ~batch.readers[:, None, :, None] & seen
        mask[..., :before].masked_fill_(blind, pad)
        positions = torch.arange(before, before + length)[None]
        embeddings = self.model.get_input_embeddings()(batch.ids)
        return decoder(inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, past_key_values=cache).last_hidden_state

    def _embed(self, ids: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        embeddings = self.model.get_input_embeddings()(ids)
        places = (ids == self.model.config.image_token_id)[..., None].expand_as(embeddings)
        return embeddings.masked_scatter(places, features.to(embeddings.dtype))

    def _optimiser(self) -> torch.optim.AdamW:
        language, tower = self.recipe.rates[self.stage]
        seeing = [*self.model.model.vision_tower.parameters(), *self.heads.parameters()]
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
