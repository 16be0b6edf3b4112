"""A vision-language model: the untouched Hugging Face model under nnsight, its processor, and its family."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, overload
from urllib.parse import urlsplit

import huggingface_hub
import torch
import transformers
from nnsight.modeling.transformers import TransformersModel
from safetensors import SafetensorError

from interp.benchmarks.sample import Sample
from interp.decoding import Run, end_tokens, greedy
from interp.encoding import Encoding, History, collate, encode
from interp.errors import ModelError
from interp.families import family_for
from interp.prompts import PromptOrder

_DEMO = "demo/"
_MAX_NEW_TOKENS = 16


class VLM:
    """A vision-language model that can be asked, encoded and traced.

    Parameters
    ----------
    model
        A built ``*ForConditionalGeneration`` of transformers. It is used as it is, in evaluation mode.
    processor
        Its processor, with a fast tokenizer and a chat template.
    prompt_order
        Picture before the text (``image-first``, as in the paper) or after it (``question-first``).
    name, revision
        Recorded as provenance, and what a store or a profile is told apart by: by default the name the configuration knows, and a digest
        of some of the weights.

    Raises
    ------
    ModelError
        The model is text-only, of an unknown family, or its processor cannot say where characters and pictures went.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        prompt_order: PromptOrder = "image-first",
        name: str | None = None,
        revision: str | None = None,
    ) -> None:
        self.name = name or getattr(model.config, "_name_or_path", "") or type(model).__name__
        if prompt_order not in get_args(PromptOrder):
            raise ModelError(f"Prompt order {prompt_order!r} is unknown; use {' or '.join(get_args(PromptOrder))}.")
        _check_config(model.config, self.name)
        self.family = family_for(model.config)
        _check_processor(model, processor, self.name)
        self.hf_model = model.eval()
        self.processor = processor
        self.prompt_order: PromptOrder = prompt_order
        self.revision = revision or _weights_digest(model)
        side = processor.tokenizer.padding_side
        self.wrapper: Any = TransformersModel(model, task="image-text-to-text", processor=processor)
        processor.tokenizer.padding_side = side  # the wrapper turns it to the left; batches here are padded by `collate`
        text = model.config.get_text_config()
        self.n_layers: int = text.num_hidden_layers
        self.n_heads: int = text.num_attention_heads

    def __repr__(self) -> str:
        return f"VLM({self.name!r}, family={self.family.model_type!r}, layers={self.n_layers}, heads={self.n_heads})"

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self.hf_model.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' floating type."""
        return self.hf_model.dtype

    @property
    def layers(self) -> Any:
        """The decoder layers, as transformers has them."""
        return self.hf_model.model.language_model.layers

    @cached_property
    def layer_kinds(self) -> tuple[str, ...]:
        """Per layer, ``full`` or ``sliding`` attention."""
        kinds = getattr(self.hf_model.config.get_text_config(), "layer_types", None) or ["full_attention"] * self.n_layers
        return tuple("sliding" if kind.startswith("sliding") else "full" for kind in kinds)

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        return end_tokens(self.hf_model, self.processor.tokenizer)

    @property
    def pad_token(self) -> int:
        """Id that fills a batch on the left, and an answer after its end."""
        pad = self.processor.tokenizer.pad_token_id
        return pad if pad is not None else self.end_tokens[0]

    def encode(self, sample: Sample, prompt: str = "base", history: History = ()) -> Encoding:
        """The sample as model inputs (batch of one), with the origin of every token.

        Parameters
        ----------
        sample
            Question and picture(s).
        prompt
            A wording of `interp.prompts.PROMPTS`, or a text that holds ``{question}``.
        history
            Earlier turns, ``(user text, assistant text)``; the pictures then belong to the first of them.

        Raises
        ------
        AlignmentError
            Question, tokens and image regions do not line up.
        """
        return encode(self.processor, self.hf_model.config, self.family, sample, prompt, self.prompt_order, history)

    def batch(self, encodings: Sequence[Encoding]) -> dict[str, torch.Tensor]:
        """Inputs of several prompts, left-padded, on the model's device and in its floating type."""
        inputs = collate(encodings, self.pad_token)
        return {name: value.to(self.device, self.dtype if value.is_floating_point() else None) for name, value in inputs.items()}

    @overload
    def generate(
        self, samples: Sample, prompt: str = ..., max_new_tokens: int = ..., history: History = ..., *, batch_size: int = ...
    ) -> str: ...

    @overload
    def generate(
        self, samples: Sequence[Sample], prompt: str = ..., max_new_tokens: int = ..., history: History = ..., *, batch_size: int = ...
    ) -> list[str]: ...

    def generate(
        self,
        samples: Sample | Sequence[Sample],
        prompt: str = "base",
        max_new_tokens: int = _MAX_NEW_TOKENS,
        history: History = (),
        *,
        batch_size: int = 8,
    ) -> str | list[str]:
        """The greedy answer to a sample, or a list of answers to several.

        Parameters
        ----------
        samples, prompt, history
            As in :meth:`encode`.
        max_new_tokens
            Longest answer, in tokens.
        batch_size
            Samples per left-padded batch.

        Returns
        -------
        str, or list of str
        """
        several = [samples] if isinstance(samples, Sample) else list(samples)
        texts: list[str] = []
        for start in range(0, len(several), batch_size):
            encodings = [self.encode(sample, prompt, history) for sample in several[start : start + batch_size]]
            texts += self._answer(encodings, max_new_tokens)
        return texts[0] if isinstance(samples, Sample) else texts

    @torch.no_grad()
    def _answer(self, encodings: Sequence[Encoding], max_new_tokens: int) -> list[str]:
        run = Run.start(self.hf_model, self.batch(encodings))
        outputs = self.hf_model(**run.prefill_inputs(), logits_to_keep=1, return_dict=True)
        return self.decode(greedy(run, outputs, self.end_tokens, self.pad_token, max_new_tokens).ids)

    def decode(self, ids: torch.Tensor) -> list[str]:
        """Texts of generated ids (batch, step), without special tokens and outer white space."""
        return [text.strip() for text in self.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)]


def load_vlm(
    name: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    prompt_order: PromptOrder = "image-first",
) -> VLM:
    """Load a vision-language model by name.

    Parameters
    ----------
    name
        ``demo/NAME`` for a model that ships with the package, a local directory, or a Hugging Face id.
    device
        By default a GPU where there is one.
    dtype
        ``float32``, ``bfloat16``, ...; ``auto`` keeps the checkpoint's own.
    revision
        Branch, tag or commit of a Hugging Face id.
    prompt_order
        ``image-first`` (the paper's) or ``question-first``.

    Raises
    ------
    ModelError
        The name is unknown, the hub cannot be reached, or the model cannot be used.

    Examples
    --------
    >>> vlm = interp.load_vlm("demo/llava")  # doctest: +SKIP
    >>> vlm.generate(sample)  # doctest: +SKIP
    '7'
    """
    source = _resolve(str(name))
    where = {"revision": revision, "local_files_only": _is_folder(source) or not _hub_resolves()}
    try:
        config = transformers.AutoConfig.from_pretrained(source, **where)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(_not_found(str(name))) from error
    _check_config(config, str(name))
    family_for(config)
    try:
        processor = transformers.AutoProcessor.from_pretrained(source, **where)
        with _without_bar() if str(name).startswith(_DEMO) else nullcontext():
            model = transformers.AutoModelForImageTextToText.from_pretrained(
                source, dtype=_dtype(dtype), attn_implementation="sdpa", use_safetensors=True, **where
            )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"Model {str(name)!r} could not be loaded ({reason}); it needs a processor and weights as .safetensors files."
        ) from error
    target: Any = device if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = model.to(target)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"Device {str(target)!r} cannot be used here; pass device='cpu', or a device that torch can see.") from error
    # A branch moves, its commit does not.
    known = _fingerprint(Path(source)) if _is_folder(source) else getattr(model.config, "_commit_hash", None) or revision
    return VLM(model, processor, prompt_order, name=str(name), revision=known)


def _resolve(name: str) -> str:
    """Where a name's files are: a folder of the package, a local directory, or the hub id itself."""
    if not name.startswith(_DEMO):
        return name
    organisms = Path(__file__).parent / "organisms"
    folder = organisms / name.removeprefix(_DEMO)
    if (folder / "config.json").is_file():
        return str(folder)
    known = sorted(_DEMO + found.parent.name for found in organisms.glob("*/config.json"))
    raise ModelError(f"Demo model {name!r} does not ship with this package; use {' or '.join(known) if known else 'a Hugging Face id'}.")


@contextmanager
def _without_bar() -> Iterator[None]:
    """A model of a few megabytes is there before its progress bar can be read."""
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()


def _weights_digest(model: Any) -> str:
    """Told apart from another model of the same name: the digest of a few numbers of every parameter."""
    few = [parameter.detach().flatten()[:4].float() for parameter in model.parameters() if parameter.device.type != "meta"]
    numbers = torch.cat([each.to(few[0].device) for each in few]).cpu().numpy()
    return f"weights:{hashlib.sha256(numbers.tobytes()).hexdigest()[:12]}"


def _fingerprint(folder: Path) -> str:
    """A local checkpoint's revision: its weights' digest, of large files from their size and both ends only.

    Without it a store or a profile of one training run would be taken for another's of the same name.
    """
    digest, end = hashlib.sha256(), 8 << 20
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        with path.open("rb") as file:
            digest.update(path.name.encode() + size.to_bytes(8, "little") + file.read(end))
            file.seek(max(end, size - end))
            digest.update(file.read(end))
    return f"sha256:{digest.hexdigest()[:12]}"


def _is_folder(name: str) -> bool:
    return Path(name).is_dir()


def _hub_resolves() -> bool:
    """False where the hub's name cannot be looked up: then only its local cache is asked, instead of retrying for half a minute."""
    if {"HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"} & set(os.environ):
        return True  # the proxy looks names up
    try:
        socket.getaddrinfo(urlsplit(huggingface_hub.constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


def _not_found(name: str) -> str:
    if _is_folder(name):
        return (
            f"Folder {name!r} does not hold a usable model; it needs a config.json of a known model type (write it with save_pretrained)."
        )
    return (
        f"Model {name!r} was not found: it is no demo model and no local folder, and the Hugging Face hub does not know it or cannot be "
        "reached; check the spelling, log in for a gated model, or download it first."
    )


def _dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype):
        raise ModelError(f"Number type {dtype!r} is unknown; use auto, float32, bfloat16 or float16.")
    return found


def _check_config(config: Any, name: str) -> None:
    if getattr(config, "vision_config", None) is None:
        raise ModelError(
            f"Model {name!r} is text-only (model type {getattr(config, 'model_type', '?')!r} has no vision tower); "
            "use a vision-language model."
        )


def _check_processor(model: Any, processor: Any, name: str) -> None:
    """Cheap checks that would otherwise show as wrong numbers much later."""
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or getattr(processor, "image_processor", None) is None:
        raise ModelError(f"Processor of {name!r} lacks a tokenizer or an image processor; pass the model's AutoProcessor.")
    if not tokenizer.is_fast:
        raise ModelError(f"Tokenizer of {name!r} is slow and gives no character offsets; load it with use_fast=True.")
    if not getattr(processor, "chat_template", None):
        raise ModelError(f"Processor of {name!r} has no chat template; set processor.chat_template to the one the model was trained with.")
    # what stands for a picture in the text may be a shorthand for a run of the model's image tokens: the processor lists those
    said, expected = getattr(processor, "image_token_ids", None) or [None], getattr(model.config, "image_token_id", None)
    if expected is None or expected not in said:
        raise ModelError(
            f"Processor and model of {name!r} disagree on the image token ({said[0]} and {expected}); load both from the same checkpoint."
        )
    if not getattr(model, "_supports_sdpa", False) or not hasattr(model.model, "language_model"):
        raise ModelError(f"Attention of {name!r} cannot be switched for capture; use the transformers implementation of the model.")
