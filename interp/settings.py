"""What a command is told: one model per command, the same for flags, a TOML file and a store's attributes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from interp.prompts import PromptOrder

METHODS = ("base", "inst", "vea", "vea-shifted", "vea-uniform", "vea-boxes")


def _listed(value: Any) -> Any:
    """``base,vea`` as well as separate words."""
    words = [value] if isinstance(value, str) else value
    return [part for word in words for part in word.split(",") if part] if isinstance(words, list | tuple) else value


def _json_object(text: str) -> str:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError("write a JSON object such as '{\"do_pan_and_scan\": true}'")
    return text


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def command_line(self, command: str, *, without: tuple[str, ...] = ()) -> str:
        """The command that says the same, with what differs from the defaults, less the fields `without`."""
        words = ["interp", command]
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name in without or value == field.get_default() or value is None:
                continue
            flag = "--" + name.replace("_", "-")
            if isinstance(value, bool):
                words.append(flag if value else f"--no-{flag[2:]}")
            else:
                words += [flag, ",".join(value) if isinstance(value, tuple) else str(value)]
        return shlex.join(words)


class ModelSettings(_Settings):
    """How a model is loaded."""

    prompt_order: PromptOrder = "image-first"
    """Picture before the text, or after it."""
    device: str | None = None
    """Where to compute; by default a GPU where there is one."""
    dtype: str = "auto"
    """auto, float32, bfloat16 or float16."""
    revision: str | None = None
    """Branch, tag or commit of a Hugging Face id."""
    image_options: Annotated[str, AfterValidator(_json_object)] | None = None
    """Settings of the picture processing that differ from the checkpoint's, as JSON: '{"do_pan_and_scan": true}'."""

    def model_options(self) -> dict[str, Any]:
        """What `interp.load_vlm` is given besides the name."""
        options = {name: getattr(self, name) for name in ("device", "dtype", "revision", "prompt_order")}
        return options | {"image_options": json.loads(self.image_options) if self.image_options is not None else None}


class _Asked(ModelSettings):
    """A model, and the benchmark it is asked."""

    model: str
    """A model that ships with the package (demo/NAME), a local directory, or a Hugging Face id."""
    benchmark: str
    """digits, visual-cot or jsonl (your own data)."""
    split: str | None = None
    """Which part of the benchmark; by default test, of jsonl all rows."""
    limit: Annotated[int | None, Field(ge=1)] = None
    """The first so many samples only."""
    annotations: Path | None = None
    """visual-cot: its annotation file."""
    path: Path | None = None
    """jsonl: its file."""
    images: Path | None = None
    """visual-cot: its picture folder; jsonl: the folder that paths begin at, if it is not the file's."""
    skip_bad: bool = False
    """visual-cot, jsonl: leave out, and count, unusable rows."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 16
    """Longest answer, in tokens."""

    def benchmark_options(self) -> dict[str, Any]:
        """What `interp.load_benchmark` is given besides its name."""
        options: dict[str, Any] = {"split": self.split, "limit": self.limit}
        options |= {name: value for name in ("annotations", "path", "images") if (value := getattr(self, name)) is not None}
        return options | ({"skip_bad": True} if self.skip_bad else {})


class TraceSettings(_Asked):
    """`interp trace`."""

    out: Path
    """The Zarr folder to write, or to take up again."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Samples per forward pass."""
    prompt: str = "base"
    """A wording (base, vea, ...), or a text that holds {question}."""
    queries: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """Also keep the rows of further tokens: question, answer, or prompt positions such as -1,-2."""
    residual: bool = False
    """Also keep the last prompt token's residual stream."""
    shard: str | None = None
    """i/n: only batches i, i + n, ...; several processes may fill one store."""


class EvaluateSettings(_Asked):
    """`interp evaluate`."""

    out: Path
    """The Zarr folder to write, or to take up again."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Samples per forward pass."""
    methods: Annotated[tuple[str, ...], BeforeValidator(_listed), Parameter(consume_multiple=True, negative="")] = METHODS
    """Ways to answer, side by side."""
    profile: Path | None = None
    """The layers to highlight by, from interp profile; fit it on another split."""
    attribution: Path | None = None
    """Highlight by this trace (from interp trace) of another model over the same samples; --profile is then that model's."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Brightness of what the profiled layers do not look at (paper Eq. 4)."""
    sigma: Annotated[float, Field(gt=0)] = 0.5
    """Smoothing, in shorter sides of the picture (Eq. 3)."""
    lam: Annotated[float, Field(gt=0)] = 10.0
    """How far a map's cell must exceed its neighbours to count as noise (Eq. 2)."""
    variant: Literal["interp", "authors"] = "interp"
    """Highlighting as corrected here, or as in the authors' code."""
    seed: int = 0
    """For what is drawn at random."""
    allow_overlap: bool = False
    """Accept a profile fitted on some of the same pictures; recorded."""


class _Causal(_Asked):
    """What causal studies share."""

    out: Path
    """The folder to write."""
    prompt: str = "base"
    """A wording (base, vea, ...), or a text that holds {question}."""
    seed: int = 0
    """For what is drawn at random."""


class SweepSettings(_Causal):
    """`interp sweep`."""

    mode: Literal["zero", "mean", "resample"] = "mean"
    """What a head gives instead: nothing, its mean over a reference set, or what it gave on another picture."""
    positions: Literal["last", "generated", "all"] = "generated"
    """Where: the last prompt position, that and the answer's tokens, or everywhere."""
    reference_split: str = "profile"
    """The benchmark's split that means and donors come from."""
    reference_limit: Annotated[int, Field(ge=2)] = 100
    """How many of its samples."""
    batch_size: Annotated[int | None, Field(ge=1)] = None
    """Heads that run at once; by default as many as fit into some hundred MB."""


class KnockoutSettings(_Causal):
    """`interp knockout`."""

    block: Annotated[tuple[str, ...], BeforeValidator(_listed), Parameter(consume_multiple=True, negative="")] = (
        "evidence",
        "control",
        "question",
    )
    """Tokens whose keys are hidden: evidence, control (as many random visual tokens), question, image, other."""
    to: Literal["last", "question", "text"] = "last"
    """From whom: the last prompt position and the answer, the question, or all text."""
    window: Annotated[int, Field(ge=1)] = 9
    """Layers that one cut covers."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Runs with hidden tokens per pass through the layers."""
    rule: Literal["any", "half", "all"] = "any"
    """When a visual token counts as evidence: any, half or all of its region."""


class PatchSettings(_Causal):
    """`interp patch`."""

    pairs: Literal["digit", "arms", "highlight"] = "digit"
    """Another digit on the asked card; the prior arms neutral and conflict; or the picture highlighted by VEA."""
    site: Literal["residual", "attention", "mlp", "head"] = "residual"
    """What is patched."""
    direction: Literal["denoising", "noising"] = "denoising"
    """From the clean run into the corrupted one, or the other way round."""
    min_difference: Annotated[float, Field(gt=0)] = 0.5
    """Pairs whose two runs differ by less, in logits, are left out and counted."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Patched runs per forward pass."""
    trace: Path | None = None
    """highlight: the trace of these samples."""
    profile: Path | None = None
    """highlight: the layers to highlight by, from another split."""
    allow_overlap: bool = False
    """highlight: accept a profile fitted on some of the same pictures; recorded."""
