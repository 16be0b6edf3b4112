"""A word-level tokenizer and a chat template, made in memory."""

from __future__ import annotations

from typing import Any

import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = (
    "what which is are the a of in on to colour digit number card circle square left right top bottom red green blue yellow black white "
    "user assistant system answer question image describe directly based no explanation needed if does not contain any relevant evidence "
    "output only use words from picture especially those highlighted region write general description according information provided "
    "following i cannot given you helpful zero one two three four five six seven eight nine"
).split()
_MARKS = list(".,:;?!'\"()\u201c\u201d/")
_COMMON = ["<pad>", "<unk>", "<s>", "</s>"]
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ' :' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ ' PICTURE' }}{% else %}{{ ' ' + part['text'] }}{% endif %}"
    "{% endfor %}{% if message['role'] == 'assistant' %}{{ ' </s>' }}{% endif %}{{ ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant :' }}{% endif %}"
)


def tokenizer(**special: str) -> Any:
    """A fast word-level tokenizer (case is kept apart by lower-casing) whose first token is ``<s>``.

    Parameters
    ----------
    special
        The special tokens of a processor by their names, ``image_token="<image>"`` by default.
    """
    special = special or {"image_token": "<image>"}
    names = [*_COMMON, *special.values()]
    vocabulary = {word: i for i, word in enumerate([*names, *_MARKS, *dict.fromkeys(WORDS)])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.normalizer = normalizers.Lowercase()  # pyright: ignore[reportAttributeAccessIssue]
    raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])  # pyright: ignore
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])])  # pyright: ignore
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=special,
        padding_side="left",
    )
    added: list[str | transformers.AddedToken] = [transformers.AddedToken(token, special=True, normalized=False) for token in names]
    fast.add_tokens(added, special_tokens=True)
    return fast


def chat_template(placeholder: str) -> str:
    """A chat template of role names that writes `placeholder` for a picture."""
    return _TEMPLATE.replace("PICTURE", placeholder)
