"""The organisms' tokenizer: a byte-level BPE trained on every wording they are ever asked with, so that each word is one token
and any other text still has a lossless encoding.
"""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from interp import prompts
from interp.benchmarks.digits import question_about
from interp.benchmarks.digits.scene import COLOURS, RELATIONS

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
DIGITS = tuple(" ".join(str((d + k) % 10) for k in range(10)) for d in range(10))


def _corpus() -> Iterator[str]:
    questions = [question_about(colour, relation) for colour in COLOURS for relation in (None, *RELATIONS)]
    for question in questions:
        for name in prompts.PROMPTS:
            yield "USER: \n" + prompts.word(name, question, information=" ").text + " \n ASSISTANT:"
    yield " " + prompts.ABSTENTION
    for colour in COLOURS:
        for digits in DIGITS:
            yield f" {colour} {digits}, {colour} {digits}."


def build_tokenizer(special: dict[str, str], chat_template: str) -> PreTrainedTokenizerFast:
    """A fast tokenizer with BOS in front, left padding, a chat template, and `special` tokens by role (``{"image_token": "<image>"}``).

    The first of `special` follows PAD, BOS and EOS; the others come after the words, whose ids therefore do not depend on their number.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    everything = [PAD, BOS, EOS, *special.values()]
    # vocab_size is a ceiling: merges end when every word of the corpus is one token.
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        special_tokens=everything[:4],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(_corpus(), trainer)
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, core.token_to_id(BOS))]
    )
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in everything])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, bos_token=BOS, eos_token=EOS, padding_side="left", extra_special_tokens=special
    )
    tokenizer.chat_template = chat_template
    return tokenizer
