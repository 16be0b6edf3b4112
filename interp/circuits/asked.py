"""What a circuit is read from: a benchmark's prompts up to the token where the reference and its foil part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from interp.benchmarks.sample import Sample
from interp.capture.facts import Facts, identify
from interp.capture.progress import track
from interp.decoding import Run
from interp.encoding import Encoding
from interp.errors import BenchmarkError, InterpError
from interp.interventions.targets import Target, find_targets, forced
from interp.vlm import VLM


@dataclass(frozen=True, eq=False)
class Asked:
    """One sample as it is read.

    Parameters
    ----------
    facts, target
        What is known of it, and its tokens to be told apart.
    encoding
        The prompt.
    shared
        The answer's tokens that reference and foil share (most often none). What is read is the last position after them.
    token, foil
        The reference's token there, and the foil's, or None where the sample has none.
    """

    facts: Facts
    target: Target
    encoding: Encoding
    shared: tuple[int, ...]
    token: int
    foil: int | None

    @property
    def position(self) -> int:
        """The position that is read."""
        return len(self.encoding) + len(self.shared) - 1

    def inputs(self, vlm: VLM) -> dict[str, Any]:
        """Keyword arguments of the forward pass (batch of one), positions included."""
        return Run.start(vlm.hf_model, forced(vlm, self.encoding, self.shared), use_cache=False).prefill_inputs()


def asked(
    vlm: VLM, bench: Sequence[Sample], prompt: str, batch_size: int, max_new_tokens: int, label: str, progress: bool | None
) -> Iterator[list[Asked]]:
    """Batches of samples, each with its target.

    Raises
    ------
    BenchmarkError
        The benchmark has no sample, or two of one id.
    InterpError
        A number is below 1.
    """
    if batch_size < 1 or max_new_tokens < 1:
        raise InterpError(f"batch_size ({batch_size}) and max_new_tokens ({max_new_tokens}) must be 1 or more.")
    if len(bench) == 0:
        raise BenchmarkError("The benchmark has no samples; check its split and its limit.")
    identify(bench)
    starts = range(0, len(bench), batch_size)
    for start in track(starts, len(starts), label, progress):
        samples = [bench[k] for k in range(start, min(start + batch_size, len(bench)))]
        encodings = [vlm.encode(sample, prompt) for sample in samples]
        targets = find_targets(vlm, samples, encodings, max_new_tokens)
        yield [_asked(*one) for one in zip(samples, encodings, targets, strict=True)]


def _asked(sample: Sample, encoding: Encoding, target: Target) -> Asked:
    step = max(target.position, 0)
    return Asked(
        facts=Facts.of(sample, encoding),
        target=target,
        encoding=encoding,
        shared=target.reference_ids[:step],
        token=target.reference_ids[step],
        foil=target.foil_ids[step] if target.position >= 0 else None,
    )
