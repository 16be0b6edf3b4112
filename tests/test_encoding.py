"""Where every token of a prompt comes from."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import interp
from interp.encoding import SEGMENTS
from interp.errors import AlignmentError, InterpError, ModelError
from interp.prompts import PROMPTS
from interp.testing import samples, tiny_vlm
from interp.vlm import VLM


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return tiny_vlm()


def said(vlm: VLM, sample: interp.Sample, **options: object) -> str:
    encoding = vlm.encode(sample, **options)  # type: ignore[arg-type]
    return vlm.processor.tokenizer.decode(encoding.token_ids[encoding.question_tokens])


@pytest.mark.parametrize("prompt", [name for name, text in PROMPTS.items() if "{question}" in text])
def test_question_tokens_decode_to_the_question(vlm: VLM, prompt: str) -> None:
    for sample in samples(5):
        assert said(vlm, sample, prompt=prompt) == sample.question


def test_a_question_whose_words_are_elsewhere_too_is_found_in_its_place(vlm: VLM) -> None:
    sample = interp.Sample("s", Image.new("RGB", (40, 30)), "Directly answer the question", "one")
    encoding = vlm.encode(sample)
    assert encoding.question_tokens.tolist() == list(range(len(encoding) - 6, len(encoding) - 2))


def test_question_first(vlm: VLM) -> None:
    asked = tiny_vlm(prompt_order="question-first")
    sample = samples(1)[0]
    assert said(asked, sample) == sample.question
    encoding = asked.encode(sample)
    assert encoding.question_tokens.max() < np.flatnonzero(encoding.segment == SEGMENTS.index("image")).min()


def test_a_prompt_without_question(vlm: VLM) -> None:
    encoding = vlm.encode(samples(1)[0], "describe")
    assert encoding.question_tokens.size == 0
    assert "general" in {encoding.token_text[i] for i in np.flatnonzero(encoding.segment == SEGMENTS.index("instruction"))}


def test_segments_of_a_conversation(vlm: VLM) -> None:
    sample = samples(1)[0]
    encoding = vlm.encode(sample, "question", history=[("describe the image", "red left"), ("what is the digit", "two")])
    named = [(SEGMENTS[s], t) for s, t in zip(encoding.segment, encoding.token_text, strict=True)]
    assert [t for s, t in named if s == "instruction"] == "describe the image red left what is the digit two".split()
    assert " ".join(t for s, t in named if s == "question") == sample.question
    assert sum(s == "image" for s, _ in named) == 16
    assert isinstance(vlm.generate(sample, history=[("describe the image", "red left")]), str)


def test_system_text_is_told_from_template() -> None:
    vlm = tiny_vlm(seed=3)
    vlm.processor.chat_template = "{{ 'system : you are helpful ' }}" + vlm.processor.chat_template
    encoding = vlm.encode(samples(1)[0])
    texts = {name: [t for t, s in zip(encoding.token_text, encoding.segment, strict=True) if SEGMENTS[s] == name] for name in SEGMENTS}
    assert texts["system"] == "system : you are helpful".split()
    assert texts["template"] == ["<s>", "user", ":", "assistant", ":"]


def test_two_images(vlm: VLM) -> None:
    sample = samples(1, n_images=2)[0]
    encoding = vlm.encode(sample)
    assert (encoding.image_index == 0).sum() == (encoding.image_index == 1).sum() == 16
    assert said(vlm, sample) == sample.question


def test_token_text_covers_the_prompt(vlm: VLM) -> None:
    encoding = vlm.encode(samples(1)[0])
    shown = "".join(t for t, s in zip(encoding.token_text, encoding.segment, strict=True) if SEGMENTS[s] != "image")
    assert shown == "<s>" + "".join(encoding.text.split()).replace("<image>", "")


def test_a_template_that_changes_the_words_is_refused() -> None:
    vlm = tiny_vlm()
    vlm.processor.chat_template = vlm.processor.chat_template.replace("part['text']", "part['text'] | upper")
    with pytest.raises(AlignmentError, match="changes the user's words"):
        vlm.encode(samples(1)[0])


def test_a_template_that_drops_the_words_is_refused() -> None:
    vlm = tiny_vlm()
    vlm.processor.chat_template = vlm.processor.chat_template.replace("part['text']", "''")
    with pytest.raises(AlignmentError, match="exactly once"):
        vlm.encode(samples(1)[0])


def test_a_template_that_places_the_picture_itself_cannot_be_asked_question_first() -> None:
    vlm = tiny_vlm(prompt_order="question-first")
    vlm.processor.chat_template = vlm.processor.chat_template.replace("message['content']", "message['content'] | sort(attribute='type')")
    with pytest.raises(ModelError, match="does not allow prompt order 'question-first'"):
        vlm.encode(samples(1)[0])


def test_a_geometry_that_does_not_match_the_tokens_is_refused() -> None:
    vlm = tiny_vlm()
    vlm.processor.image_processor.crop_size = {"height": 35, "width": 28}
    vlm.processor.patch_size = 14
    with pytest.raises(AlignmentError, match=r"holds \d+ image tokens, but the image geometry of llava gives 20"):
        vlm.encode(samples(1)[0])


def test_an_unknown_wording_is_refused(vlm: VLM) -> None:
    with pytest.raises(InterpError, match="Prompt 'nope' is unknown"):
        vlm.encode(samples(1)[0], "nope")


def test_padding_is_on_the_left(vlm: VLM) -> None:
    encodings = [vlm.encode(sample) for sample in samples(5)]
    batch = vlm.batch(encodings)
    assert batch["attention_mask"][:, -1].all()
    assert batch["attention_mask"].sum(1).tolist() == [len(e) for e in encodings]
