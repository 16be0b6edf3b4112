"""What is asked of a trace: settings that shape its content, checked, and which samples a process takes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from interp.benchmarks.sample import Sample
from interp.capture.batch import Queries, trace_batch
from interp.capture.record import Record
from interp.encoding import Encoding
from interp.errors import BenchmarkError, InterpError
from interp.vlm import VLM


@dataclass(frozen=True)
class Request:
    """Settings that a trace's content follows from; meanings as in `interp.trace`.

    Raises
    ------
    InterpError
        A setting is not understood.
    """

    prompt: str
    batch_size: int
    answers: bool
    queries: Queries | None
    residual: bool
    max_new_tokens: int

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.max_new_tokens < 1:
            raise InterpError(f"batch_size ({self.batch_size}) and max_new_tokens ({self.max_new_tokens}) must be 1 or more.")
        if self.queries is not None and not isinstance(self.queries, str):
            object.__setattr__(self, "queries", [int(position) for position in self.queries])  # numpy's numbers are no JSON
            if not self.queries:
                raise InterpError("queries=[] asks for no position; give at least one, or leave queries out.")
        elif self.queries not in (None, "answer", "question"):
            raise InterpError(f"queries={self.queries!r} is not understood; use 'answer', 'question', or a list of prompt positions.")
        if self.queries == "answer" and not self.answers:
            raise InterpError("queries='answer' needs the answer; drop answers=False.")

    @property
    def settings(self) -> dict[str, Any]:
        """By name, as a trace's attributes and a store's identity keep them."""
        return {
            "prompt": self.prompt,
            "answers": self.answers,
            "queries": self.queries if self.queries is not None else [],
            "residual": self.residual,
            "max_new_tokens": self.max_new_tokens,
            "batch_size": self.batch_size,
        }

    def batches(self, n: int, shard: str | None) -> list[range]:
        """Batch k is always samples k B to k B + B - 1, whoever runs it: what is padded together decides the last digits.

        Raises
        ------
        BenchmarkError
            There is no sample, or the shard has none.
        InterpError
            `shard` is not understood.
        """
        if n == 0:
            raise BenchmarkError("The benchmark has no samples; check its split and its limit.")
        parts = [range(start, min(start + self.batch_size, n)) for start in range(0, n, self.batch_size)]
        if shard is None:
            return parts
        index, slash, count = shard.partition("/")
        if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
            raise InterpError(f"shard={shard!r} is not understood; write 'i/n' with i from 0 to n - 1, for example '0/2'.")
        mine = parts[int(index) :: int(count)]
        if not mine:
            raise BenchmarkError(
                f"Shard {shard!r} of {n} samples in batches of {self.batch_size} is empty; use fewer shards or smaller batches."
            )
        return mine

    def trace(self, vlm: VLM, batch: Sequence[Sample], encodings: Sequence[Encoding], *, check: bool) -> list[Record]:
        """Records of one batch."""
        return trace_batch(
            vlm,
            batch,
            encodings,
            answers=self.answers,
            queries=self.queries,
            residual=self.residual,
            max_new_tokens=self.max_new_tokens,
            check=check,
        )
