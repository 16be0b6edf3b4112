"""Content Guided Refinement: the model first writes down what the picture shows, and answers with that in the prompt (arXiv 2406.10638)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from interp.capture.answering import answer_text
from interp.errors import InterpError
from interp.methods.batch import Batch, Reply
from interp.methods.method import Method
from interp.prompts import PROMPTS
from interp.rendering import without_control

_SLOT = "{question}"


def cgr(information_tokens: int = 512) -> Method:
    """The method `cgr`, with another limit on what the first pass may write.

    Source: arXiv 2406.10638 and its code: extraction prompt, 512 new tokens without sampling, then the question with the information.
    Deviations: the extraction list is the source's, the words around it are ours (`interp.prompts.PROMPTS`, ``extract`` and
    ``informed``); special tokens in the information are taken out, since they would be read as the end of a turn, or as a picture.
    Cost: neither pass asks the base prompt, so that no prefill is shared with `base`.

    Parameters
    ----------
    information_tokens
        Longest information, in tokens.

    Returns
    -------
    Method
        It records `information_tokens`, how many were written.

    Raises
    ------
    InterpError
        `information_tokens` is below 1.
    """
    if information_tokens < 1:
        raise InterpError(f"information_tokens={information_tokens} leaves no room for information; give 1 or more (the source gives 512).")
    return Method(
        "cgr",
        f"original picture; what it shows is written down first ({information_tokens} tokens or fewer), then told with the question",
        partial(_answer, longest=information_tokens),
        records={"information_tokens": ()},
        forms=("extract", "informed"),
    )


def _answer(batch: Batch, longest: int) -> Sequence[Reply]:
    told = batch.ask("extract", max_new_tokens=longest)
    replies = batch.ask([informed(batch, reply) for reply in told])
    for reply, information in zip(replies, told, strict=True):
        reply.numbers["information_tokens"] = float(len(information.ids))
    return replies


def informed(batch: Batch, told: Reply) -> str:
    """The second pass's wording, with what was told in it and a slot for the question."""
    text = without_control(batch.vlm.processor, answer_text(batch.vlm, told.ids)).replace(_SLOT, " ")
    return PROMPTS["informed"].replace("{information}", " ".join(text.split()))


CGR = cgr()
