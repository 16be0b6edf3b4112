"""What a model is asked, as text: the chat template's own words around the user's, and where the user's are in it.

A conversation is rendered twice, once with marks in place of the user's words, so that nothing is searched for. A text that the
tokenizer would not read as words is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError

from interp.errors import AlignmentError
from interp.prompts import PromptOrder, Wording, assistant_turn, user_turn

History = Sequence[tuple[str, str]]
Span = tuple[int, int]

# Private-use characters: no template, tokenizer rule or question gives them a meaning.
_OPEN, _ASK, _ASKED, _CLOSE = "\ue000", "\ue001", "\ue002", "\ue003"


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered prompt and the character spans in it."""

    text: str
    user: Span
    question: Span
    system_end: int
    earlier: tuple[Span, ...]


def conversation(text: str, n_images: int, order: PromptOrder, history: History = ()) -> list[dict[str, Any]]:
    """Chat messages: earlier turns, then `text`. The pictures belong to the first turn."""
    users = [*(asked for asked, _ in history), text]
    messages: list[dict[str, Any]] = []
    for turn, asked in enumerate(users):
        messages.append(user_turn(asked, n_images if turn == 0 else 0, order))
        if turn < len(history):
            messages.append(assistant_turn(history[turn][1]))
    return messages


def render(processor: Any, wording: Wording, n_images: int, order: PromptOrder, history: History = ()) -> Rendered:
    """The chat template's text for a wording, with the spans of what the user says.

    Raises
    ------
    AlignmentError
        The template changes the user's words, so that the question cannot be followed.
    """
    before, question, after = (
        wording.text[: wording.question_start],
        wording.text[wording.question_start : wording.question_end],
        wording.text[wording.question_end :],
    )
    marked = f"{_OPEN}{before}{_ASK}{_ASKED}{after}{_CLOSE}"
    frame = _apply(processor, conversation(marked, n_images, order, history))
    if any(frame.count(mark) != 1 for mark in (_OPEN, _ASK, _ASKED, _CLOSE)):
        raise AlignmentError("The chat template does not show the user's words exactly once; use a template that inserts them unchanged.")
    head, tail = frame.split(_OPEN)[0], frame.split(_CLOSE)[1]
    start = len(head)
    asked = (start + len(before), start + len(before) + len(question))
    end = start + len(wording.text)
    text = _apply(processor, conversation(wording.text, n_images, order, history))
    if text != head + wording.text + tail:
        raise AlignmentError(
            "The chat template changes the user's words, so the question cannot be found in the prompt; "
            f"use a template that inserts them unchanged (the question was {question!r})."
        )
    return Rendered(text, (start, end), asked, _system_end(processor), _earlier(text[:start], history))


def _earlier(head: str, history: History) -> tuple[Span, ...]:
    spans, at = [], 0
    for words in (words for turn in history for words in turn if words):
        found = head.find(words, at)
        if found < 0:
            raise AlignmentError(f"The chat template changes an earlier turn ({words!r}); use a template that inserts turns unchanged.")
        at = found + len(words)
        spans.append((found, at))
    return tuple(spans)


def _apply(processor: Any, messages: list[dict[str, Any]], generation: bool = True) -> str:
    return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)


def _system_end(processor: Any) -> int:
    """Where the system text ends: what stands before the first user turn but not before the second."""
    try:
        talk = _apply(processor, [user_turn(_OPEN, 0), assistant_turn(_ASK), user_turn(_ASKED, 0)], generation=False)
    except TemplateError:  # a template of single turns: everything around the user's words is template
        return 0
    first, later = talk.split(_OPEN)[0], talk.split(_ASK)[-1].split(_ASKED)[0]
    shared = next(
        (i for i, (a, b) in enumerate(zip(reversed(first), reversed(later), strict=False)) if a != b), min(len(first), len(later))
    )
    return len(first) - shared


def answer_separator(processor: Any) -> str:
    """What the template writes between the generation prompt and the assistant's words (often nothing, or a space).

    Raises
    ------
    AlignmentError
        An assistant's turn does not begin with the generation prompt.
    """
    open_turn = _apply(processor, [user_turn(_OPEN, 0)])
    closed = _apply(processor, [user_turn(_OPEN, 0), assistant_turn(_ASK)], generation=False).split(_ASK)[0]
    if not closed.startswith(open_turn):
        raise AlignmentError(
            "The chat template writes an assistant's turn that does not begin with its own generation prompt, so a reference cannot be "
            "placed; use a template where it does, or trace with answers=False."
        )
    return closed[len(open_turn) :]


def refuse_control(processor: Any, text: str, where: str) -> None:
    """Refuse a text that the tokenizer would read a special token in, or the processor a picture.

    Such a text changes what the prompt is made of: a picture that is not there, an answer that has ended, a turn of somebody else.

    Parameters
    ----------
    where
        What the text is, for the message.

    Raises
    ------
    AlignmentError
        It holds one.
    """
    tokenizer = processor.tokenizer
    special, written = _control(processor)
    found = sorted((token for token in written if token in text), key=lambda token: (text.index(token), -len(token)))
    if not found:
        unknown = tokenizer.unk_token_id  # what every unknown word becomes
        read = tokenizer(text, add_special_tokens=False)["input_ids"]
        found = [special[i] for i in read if i in special and i != unknown]
    if found:
        raise AlignmentError(
            f"{where} holds {found[0]!r}, which this model's tokenizer reads as a special token and not as words; "
            "leave it out, or write it with a space after its first character."
        )


def without_control(processor: Any, text: str) -> str:
    """The text with a space in place of everything that `refuse_control` refuses: what a model said can then be told to it again."""
    tokenizer = processor.tokenizer
    special, written = _control(processor)
    while True:
        plain = text
        for token in sorted(written, key=len, reverse=True):
            plain = plain.replace(token, " ")
        read = tokenizer(plain, add_special_tokens=False, return_offsets_mapping=True)
        spans = zip(read["input_ids"], read["offset_mapping"], strict=True)
        for _, (start, end) in reversed([(i, span) for i, span in spans if i in special and i != tokenizer.unk_token_id]):
            plain = plain[:start] + " " + plain[end:]
        if plain == text:
            return text
        text = plain  # what is left may be a token now


def _control(processor: Any) -> tuple[dict[int, str], set[str]]:
    """The special tokens by id, and every spelling that is one: a placeholder is replaced in the text, before the tokenizer sees it."""
    tokenizer = processor.tokenizer
    special = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    return special, {*special.values(), *getattr(processor, "all_special_multimodal_tokens", ())}
