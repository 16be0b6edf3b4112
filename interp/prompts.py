"""The wordings a model is asked with, and how a wording, a question and pictures become a chat turn.

Base and VEA wordings: arXiv 2510.17771, appendix prompts. Describe: ViCrop (arXiv 2502.17422). Extract and informed: CGR
(arXiv 2406.10638), whose extraction list is kept and whose surrounding words are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from interp.errors import InterpError

PromptOrder = Literal["image-first", "question-first"]

ABSTENTION = "I cannot answer based on the given image."
_DIRECT = (
    "Directly answer the question based on the image, no explanation is needed. "
    f"If the image does not contain any relevant evidence, output \u201c{ABSTENTION}\u201d "
)
_HIGHLIGHT = "Only use words from the picture, especially those in the highlighted region, to answer the question. "
_EXTRACT = (
    "Extract the following information from the image: Text/Numbers, Objects (properties, position, quantity), People, "
    "Relationships and Interactions, Activities, Events."
)

PROMPTS: dict[str, str] = {
    "base": _DIRECT + "Question: {question}",
    "vea": _DIRECT + _HIGHLIGHT + "Question: {question}",
    "question": "{question}",
    "describe": "Write a general description of the image.",
    "extract": _EXTRACT,
    "informed": "According to the information provided: {information} Answer the following question:\n{question}",
}


@dataclass(frozen=True, slots=True)
class Wording:
    """A user turn's text and the character span of the question inside it (empty where the wording asks none)."""

    text: str
    question_start: int
    question_end: int


def word(prompt: str, question: str = "", information: str = "") -> Wording:
    """The user's text for wording `prompt`, with the question's place in it.

    Raises
    ------
    InterpError
        `prompt` is not a name in `PROMPTS` and holds no ``{question}`` to make it a wording of its own.
    """
    template = PROMPTS.get(prompt, prompt if "{question}" in prompt else None)
    if template is None:
        raise InterpError(f"Prompt {prompt!r} is unknown; use one of {', '.join(PROMPTS)}, or a text that holds {{question}}.")
    before, slot, after = template.partition("{question}")
    before, after = (part.replace("{information}", information) for part in (before, after))
    if not slot:
        return Wording(before, len(before), len(before))
    return Wording(before + question + after, len(before), len(before) + len(question))


def user_turn(text: str, n_images: int, order: PromptOrder = "image-first") -> dict[str, Any]:
    """One user turn in the chat-template form of transformers: pictures before the text, or after it.

    Raises
    ------
    InterpError
        `order` is neither ``image-first`` nor ``question-first``.
    """
    if order not in get_args(PromptOrder):
        raise InterpError(f"Prompt order {order!r} is unknown; use image-first or question-first.")
    pictures: list[dict[str, Any]] = [{"type": "image"} for _ in range(n_images)]
    words: list[dict[str, Any]] = [{"type": "text", "text": text}]
    return {"role": "user", "content": pictures + words if order == "image-first" else words + pictures}


def assistant_turn(text: str) -> dict[str, Any]:
    """One answered turn, for conversations of several."""
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}
