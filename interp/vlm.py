"""A vision-language model: the untouched Hugging Face model under nnsight, its processor, and its family."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Protocol, get_args, overload

import torch
from nnsight.modeling.transformers import TransformersModel
from PIL import Image

from interp.benchmarks.sample import Sample
from interp.decoding import Fed, Run, end_tokens, greedy
from interp.encoding import Encoding, History, collate, encode
from interp.errors import AlignmentError, InterpError, ModelError, SampleError
from interp.families import family_for
from interp.processors import with_image_options
from interp.prompts import PromptOrder

_MAX_NEW_TOKENS = 16


class Edit(Protocol):
    """A change of what layers compute, made in every forward pass while it is in force (`VLM.edited`)."""

    @property
    def description(self) -> str:
        """What it does, in one line: recorded as provenance, and two results of different edits are told apart by it."""
        ...

    def __call__(self, index: int, layer: Any, fed: Fed) -> None:
        """Edit decoder layer `index`, an nnsight envoy inside a trace; its modules must be touched in the order they run."""
        ...


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
    image_options
        Settings of the picture processing that differ from the processor's, by their names in transformers, for example
        ``{"do_pan_and_scan": True}``. The processor itself stays as it is: `processor` of this object is a copy.

    Raises
    ------
    ModelError
        The model is text-only, of an unknown family, its processor cannot say where characters and pictures went, or an image option is
        unknown or not one the model was built for.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        prompt_order: PromptOrder = "image-first",
        name: str | None = None,
        revision: str | None = None,
        image_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name or getattr(model.config, "_name_or_path", "") or type(model).__name__
        if prompt_order not in get_args(PromptOrder):
            raise ModelError(f"Prompt order {prompt_order!r} is unknown; use {' or '.join(get_args(PromptOrder))}.")
        check_config(model.config, self.name)
        self.family = family_for(model.config)
        _check_processor(model, processor, self.name)
        self.hf_model = model.eval()
        self.image_options: dict[str, Any] = dict(image_options or {})
        if self.image_options:
            processor = with_image_options(processor, self.image_options, model.config)
        self.processor = processor
        self.prompt_order: PromptOrder = prompt_order
        self.revision = revision or _weights_digest(model)
        side = processor.tokenizer.padding_side
        self.wrapper: Any = TransformersModel(model, task="image-text-to-text", processor=processor)
        processor.tokenizer.padding_side = side  # the wrapper turns it to the left; batches here are padded by `collate`
        text = model.config.get_text_config()
        self.n_layers: int = text.num_hidden_layers
        self.n_heads: int = text.num_attention_heads
        self.edits: tuple[Edit, ...] = ()
        if self.image_options:
            self._check_geometry()

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
        text = self.hf_model.config.get_text_config()
        # without a list, a window is every layer's
        every = "sliding_attention" if getattr(text, "sliding_window", None) else "full_attention"
        kinds = getattr(text, "layer_types", None) or [every] * self.n_layers
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
        SampleError
            A picture cannot be opened, or the processor does not take it.
        """
        return encode(self.processor, self.hf_model.config, self.family, sample, prompt, self.prompt_order, history)

    def batch(self, encodings: Sequence[Encoding]) -> dict[str, torch.Tensor]:
        """Inputs of several prompts, left-padded, on the model's device and in its floating type."""
        inputs = collate(encodings, self.pad_token)
        return {name: value.to(self.device, self.dtype if value.is_floating_point() else None) for name, value in inputs.items()}

    def start(self, encodings: Sequence[Encoding], *, use_cache: bool = True) -> Run:
        """A generation from several prompts, as a left-padded batch, under the edits in force."""
        asked = [(encoding.sample_id, encoding.image_id) for encoding in encodings]
        call = self.traced if self.edits else None
        return Run.start(self.hf_model, self.batch(encodings), use_cache=use_cache, call=call, asked=asked)

    def traced(self, run: Run, arguments: Mapping[str, Any], visit: Callable[[int, Any], None] | None = None) -> Any:
        """One forward pass under nnsight, with the edits in force.

        Parameters
        ----------
        run, arguments
            The generation, and the keyword arguments of the pass.
        visit
            Called for every layer, after its edits, with its place and its envoy.

        Returns
        -------
        The outputs of transformers.
        """
        fed = run.fed(arguments)
        with torch.no_grad(), self.wrapper.trace(**arguments):
            for index, layer in enumerate(self.wrapper.model.language_model.layers):
                for edit in self.edits:
                    edit(index, layer, fed)
                if visit is not None:
                    visit(index, layer)
            outputs = self.wrapper.output.save()
        return outputs

    @contextmanager
    def edited(self, edit: Edit) -> Iterator[VLM]:
        """With `edit` in force: answers, traces and evaluations of this model are those of the edited one. Edits may be nested."""
        before = self.edits
        self.edits = (*before, edit)
        try:
            yield self
        finally:
            self.edits = before

    def refuse_edits(self, what: str) -> None:
        """For what runs the model as it is.

        Raises
        ------
        InterpError
            An edit is in force, which `what` would silently leave out.
        """
        if self.edits:
            raise InterpError(
                f"{what} runs the model as it is, but this one is edited ({'; '.join(edit.description for edit in self.edits)}); "
                "leave the edit's context first."
            )

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

    def _check_geometry(self) -> None:
        """Refuse picture settings that processor and geometry do not read alike: a wide and a high picture get as many tokens from both."""
        for size in ((96, 32), (40, 60)):
            try:
                self.encode(Sample("check", Image.new("RGB", size), "check", "check"))
            except (AlignmentError, SampleError, ArithmeticError, LookupError, ValueError) as error:
                raise ModelError(
                    f"Image options {self.image_options} do not go with the rest of {self.name!r} ({error}); leave out what the model was "
                    "not built for."
                ) from error

    @torch.no_grad()
    def _answer(self, encodings: Sequence[Encoding], max_new_tokens: int) -> list[str]:
        run = self.start(encodings)
        outputs = run.forward(run.prefill_inputs(), logits_to_keep=1)
        return self.decode(greedy(run, outputs, self.end_tokens, self.pad_token, max_new_tokens).ids)

    def decode(self, ids: torch.Tensor) -> list[str]:
        """Texts of generated ids (batch, step), without special tokens and outer white space."""
        return [text.strip() for text in self.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)]


def _weights_digest(model: Any) -> str:
    """Told apart from another model of the same name: the digest of a few numbers of every parameter."""
    few = [parameter.detach().flatten()[:4].float() for parameter in model.parameters() if parameter.device.type != "meta"]
    numbers = torch.cat([each.to(few[0].device) for each in few]).cpu().numpy()
    return f"weights:{hashlib.sha256(numbers.tobytes()).hexdigest()[:12]}"


def check_config(config: Any, name: str) -> None:
    """Refuse a text-only model.

    Raises
    ------
    ModelError
        It has no vision tower.
    """
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
