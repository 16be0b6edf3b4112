"""What a way of answering is: a name, what it needs, and a function from a batch of questions to replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from interp.methods.batch import Batch, Reply


@dataclass(frozen=True)
class Method:
    """A way to answer a question, side by side with others.

    Parameters
    ----------
    name
        What `evaluate` and its result call it.
    summary
        One line on what the model is shown and asked.
    answer
        One reply per sample of a batch, in their order and of at most `max_new_tokens` tokens. It may ask the model several times, see
        `Batch`.
    needs_map
        Whether it reads `Batch.maps`, so that a layer profile must be given.
    needs_spoken
        Whether it reads `Batch.spoken`, so that `base` keeps the rows of its answer and no second one is made for them.
    records
        Further numbers it leaves in `Reply.numbers`, by name, each with its meanings where it is a code (0, 1, ...) and none where it
        is a quantity. Each becomes a variable over samples, so its name must be neither another method's nor one of the result's own.
    forms
        What the model must have been trained for: wordings of `interp.prompts.PROMPTS`, and ``two images`` where it shows twice as many
        pictures as a sample has. Of a model whose card does not list one of them the method is not applicable.
    """

    name: str
    summary: str
    answer: Callable[[Batch], Sequence[Reply]]
    needs_map: bool = False
    needs_spoken: bool = False
    records: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    forms: tuple[str, ...] = ()
