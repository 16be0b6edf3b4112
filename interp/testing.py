"""What tests, examples and measurements need: tiny random models, a benchmark model, seeded samples and seeded traces.

Tiny models have the layers, heads, processor and chat template of the real family and random weights; their attention is peaky, so that
a wrong row is far from the right one. No file and no network is used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
import transformers
import xarray as xr
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from interp.benchmarks.sample import Region, Sample, image_sha256
from interp.capture.labels import assemble, describe
from interp.capture.record import Record
from interp.encoding import SEGMENTS, Encoding
from interp.errors import InterpError
from interp.families.regions import grid
from interp.geometry import coverage
from interp.vlm import VLM

WORDS = (
    "what which is are the a of in on to colour digit number card circle square left right top bottom red green blue yellow black white "
    "user assistant system answer question image describe directly based no explanation needed if does not contain any relevant evidence "
    "output only use words from picture especially those highlighted region write general description according information provided "
    "following i cannot given you helpful zero one two three four five six seven eight nine"
).split()
_MARKS = list(".,:;?!'\"()\u201c\u201d/")
_TEXT = np.dtypes.StringDType()
_SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<image>"]
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ' :' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ ' <image>' }}{% else %}{{ ' ' + part['text'] }}{% endif %}"
    "{% endfor %}{% if message['role'] == 'assistant' %}{{ ' </s>' }}{% endif %}{{ ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant :' }}{% endif %}"
)


def tokenizer() -> Any:
    """A fast word-level tokenizer (case is kept apart by lower-casing) whose first token is ``<s>``."""
    vocabulary = {word: i for i, word in enumerate([*_SPECIAL, *_MARKS, *dict.fromkeys(WORDS)])}
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
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
    )
    special: list[str | transformers.AddedToken] = [transformers.AddedToken(token, special=True, normalized=False) for token in _SPECIAL]
    fast.add_tokens(special, special_tokens=True)
    return fast


def tiny_vlm(
    family: str = "llava", seed: int = 0, dtype: torch.dtype = torch.float32, prompt_order: Any = "image-first", **text: Any
) -> VLM:
    """A random model of a family: 4 layers, 4 heads over 2 key-value heads, and 16 visual tokens a picture.

    Parameters
    ----------
    family
        A `model_type` with a builder here.
    seed
        Seeds the weights.
    text
        Overrides of the text configuration (for example ``num_key_value_heads=4``).

    Raises
    ------
    InterpError
        There is no builder for `family`.
    """
    if family not in _BUILDERS:
        raise InterpError(f"No tiny model of family {family!r}; use one of {', '.join(_BUILDERS)}.")
    model, processor = _BUILDERS[family](_text_config(**text), image=28, patch=7)
    _randomise(model, seed)
    return VLM(model.to(dtype), processor, prompt_order, name=f"tiny/{family}")


def bench_model(seed: int = 0) -> VLM:
    """The model that performance is measured on: text hidden 512, 8 layers, 8 heads, 64 visual tokens, float32."""
    text = _text_config(
        hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=8, head_dim=64
    )
    model, processor = _llava(text, image=112, patch=14)
    _randomise(model, seed)
    return VLM(model, processor, name="bench/llava")


def bench_samples(vlm: VLM, n_tokens: int, n: int = 1, seed: int = 0) -> list[Sample]:
    """Samples whose base prompt has exactly `n_tokens` tokens for `vlm`: the question is filled up with words.

    Raises
    ------
    InterpError
        The picture and the wording alone take more than `n_tokens`.
    """
    rng = np.random.default_rng(seed)
    edge = vlm.hf_model.config.vision_config.image_size
    picture = _picture(rng, edge, edge)
    shortest = len(vlm.encode(Sample("bench", picture, "is", "one")))
    if n_tokens < shortest:
        raise InterpError(f"A prompt of {n_tokens} tokens is too short for this model; use {shortest} or more.")
    return [
        Sample(f"bench-{i}", _picture(rng, edge, edge), " ".join(rng.choice(WORDS, n_tokens - shortest + 1)), "one", image_id=str(i))
        for i in range(n)
    ]


def samples(n: int, seed: int = 0, n_images: int = 1) -> list[Sample]:
    """Seeded samples: noise pictures of various shapes, word-salad questions of various lengths (any three in a row differ),
    one or two evidence boxes and a distractor.
    """
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        pictures = [_picture(rng, *(int(v) for v in rng.integers(30, 90, 2))) for _ in range(n_images)]
        regions = [_region(rng, *pictures[0].size, "evidence") for _ in range(1 + i % 2)]
        regions.append(_region(rng, *pictures[0].size, "distractor"))
        question = "what is the " + " ".join(rng.choice(WORDS, 1 + 3 * (i % 3) + int(rng.integers(3)))) + " ?"
        references = ["one"] if i % 3 else ["two", "two three"]
        made.append(
            Sample(
                f"synthetic-{seed}-{i}",
                pictures,
                question,
                references,
                regions,
                image_id=f"picture-{seed}-{i // 2}",
                dataset="synthetic",
                split="test",
                knobs={"cards": i % 4, "arm": "neutral" if i % 2 else "conflict"},
            )
        )
    return made


def traces(n: int = 12, n_layers: int = 6, n_heads: int = 4, side: int = 6, seed: int = 0, prompt_order: str = "image-first") -> xr.Dataset:
    """A seeded trace without a model: the schema of `interp.trace`, and attention that finds the evidence in the later layers.

    Half of the answers are right; there, attention on the evidence is stronger.

    Parameters
    ----------
    n, n_layers, n_heads
        Size of the trace.
    side
        Visual tokens along an edge of the picture.
    """
    rng = np.random.default_rng(seed)
    asked = samples(n, seed)
    strength = np.linspace(0.0, 3.0, n_layers)[:, None, None] + rng.normal(0, 0.3, (1, n_heads, 1))
    records = []
    for i, sample in enumerate(asked):
        encoding = _written(sample, side)
        shares = np.full(len(encoding), np.nan)
        seen = encoding.segment == SEGMENTS.index("image")
        shares[seen] = coverage(encoding.token_boxes[seen], [r.box for r in sample.evidence], encoding.images[0].size)
        right = i % 2 == 0
        drive = strength * (1.5 if right else 0.7) * np.nan_to_num(shares) + rng.normal(0, 0.7, (n_layers, n_heads, len(encoding)))
        weights = np.exp(drive)
        record = Record(
            sample,
            encoding,
            tuple(image_sha256(image) for image in encoding.images),
            (weights / weights.sum(-1, keepdims=True)).astype(np.float32),
            shares,
            "visible",
        )
        logprob = float(-rng.exponential(0.5 if right else 2.0))
        record.scores |= {"entropy": float(rng.exponential(0.5)), "reference_logprob": logprob, "reference_logprob_mean": logprob / 2}
        record.answer(sample.references[0] if right else "nine nine", np.array([5, 3]))
        record.scores["seconds"] = 0.0
        records.append(record)
    model = SimpleNamespace(
        name=f"synthetic/{seed}",
        revision="",
        family=SimpleNamespace(model_type="synthetic"),
        dtype=torch.float32,
        prompt_order=prompt_order,
        n_layers=n_layers,
        n_heads=n_heads,
        layer_kinds=("full",) * n_layers,
        processor=SimpleNamespace(image_processor=None),
    )
    return assemble(records, cast(VLM, model), {"prompt": "base"})


def planted(
    n: int = 80,
    seen: float = 0.5,
    effect: float = 0.5,
    *,
    null: bool = False,
    seed: int = 0,
    per_image: int = 2,
    n_layers: int = 4,
    n_heads: int = 4,
    side: int = 8,
) -> xr.Dataset:
    """A trace whose truth is known: who saw the evidence, who could read it, and what seeing does to the answer.

    Pictures of 112 x 112 pixels hold two to five cards of one size and one digit each; a sample asks for one of them, the others are
    distractors. In the later half of the layers a sample that sees looks at the card it was asked for, one that does not looks at
    another. Samples of one picture share its cards, how much attention it draws, part of the noise, and mostly their luck: a test that
    takes them for independent finds effects that are not there. Every tenth picture is asked for a card that is absent. All is drawn
    at once, without pictures or a tokenizer, so that hundreds of data sets take seconds.

    Parameters
    ----------
    n, per_image
        Samples, and how many of them share a picture (at most 2, the fewest cards there are).
    seen
        Share of the samples that see the evidence. The truth is the coordinate `planted_seen`; `planted_readable`, drawn for 70 %,
        is independent of it.
    effect
        How much likelier those that see are to answer right: 0.5 + effect / 2 against 0.5 - effect / 2.
    null
        Attention is noise and answers are coins: nobody sees, and nothing has an effect.
    n_layers, n_heads, side
        Size of the trace; `side` visual tokens along an edge.

    Raises
    ------
    InterpError
        `per_image` is neither 1 nor 2.
    """
    if per_image not in (1, 2):
        raise InterpError(f"per_image={per_image} samples cannot share a picture of two cards; use 1 or 2.")
    rng = np.random.default_rng([seed, 20251017])
    image = np.arange(n) // per_image
    n_images = int(image[-1]) + 1
    n_cards = rng.integers(2, 6, n_images)
    size = rng.integers(22, 29, n_images)
    cards = _cards(rng, n_cards, size, 112)[image]
    texts = rng.integers(0, 10, (n_images, 5))[image]
    absent = (image % 10) == 9
    asked, other = np.arange(n) % per_image, 1 - np.arange(n) % per_image
    sees = (rng.random(n) < seen) & (not null) & ~absent
    luck = _luck(rng, n, per_image)
    right = luck < (0.5 if null else np.where(sees, 0.5 + effect / 2, 0.5 - effect / 2))

    edges = np.arange(side + 1) * (112 / side)
    low, high = np.meshgrid(edges[:-1], edges[:-1]), np.meshgrid(edges[1:], edges[1:])
    grid_boxes = np.stack([*low, *high], axis=-1).reshape(-1, 4)
    rows = np.arange(n)
    shares = _grid_shares(cards[rows, asked], edges)
    looked = np.where(sees[:, None], shares, _grid_shares(cards[rows, other], edges)) * (not null)
    words = ["what", "is", "on", "the", "card"]
    n_tokens = 1 + side * side + len(words) + 1
    visual = slice(1, 1 + side * side)
    drive = 0.5 * rng.standard_normal((n_images, n_layers, n_heads, n_tokens), dtype=np.float32)[image]
    drive += 0.5 * rng.standard_normal((n, n_layers, n_heads, n_tokens), dtype=np.float32)
    drive[..., visual] += rng.standard_normal((n_images, 1, 1, 1), dtype=np.float32)[image] - 2
    drive[:, n_layers // 2 :, :, visual] += 2 * looked[:, None, None].astype(np.float32)
    weights = np.exp(drive)

    def spread(values: Any, fill: float, dtype: Any = np.float64) -> Any:
        table = np.full((n, n_tokens, *values.shape[2:]), fill, dtype=dtype)
        table[:, visual] = values
        return table

    segment = np.array([SEGMENTS.index(part) for part in ["template", *["image"] * side**2, *["question"] * len(words), "template"]])
    present = np.arange(5) < n_cards[image][:, None]
    role = np.where(present, "distractor", "")
    role[rows[~absent], asked[~absent]] = "evidence"
    reference = texts[rows, asked]
    said = np.where(right, reference, (reference + 1 + rng.integers(0, 9, n)) % 10).astype(str)
    ones = right.astype(np.float64)
    token = ("sample", "token")
    variables: dict[str, Any] = {
        "attention": (("sample", "layer", "head", "token"), weights / weights.sum(-1, keepdims=True)),
        "coverage": (token, spread(np.where(absent[:, None], 0.0, shares), np.nan)),
        "question": ("sample", np.full(n, " ".join(words)).astype(_TEXT)),
        "references": ("sample", np.array([json.dumps([str(value)]) for value in reference], dtype=_TEXT)),
        "prediction": ("sample", said.astype(_TEXT)),
        "answer_ids": (("sample", "step"), np.stack([said.astype(np.int64), np.full(n, 3)], axis=1)),
        "evidence_box": (("sample", "evidence", "corner"), np.where(present[..., None], cards, np.nan)),
        "evidence_image": (("sample", "evidence"), np.where(present, 0, -1).astype(np.int32)),
        "evidence_role": (("sample", "evidence"), role.astype(_TEXT)),
        "evidence_text": (("sample", "evidence"), np.where(present, texts.astype(str), "").astype(_TEXT)),
        "image_size": (("sample", "image", "axis"), np.full((n, 1, 2), 112, np.int32)),
        "image_uri": (("sample", "image"), np.full((n, 1), "memory:").astype(_TEXT)),
        "image_sha256": (("sample", "image"), np.array([[f"{seed:032x}{i:032x}"] for i in image], dtype=_TEXT)),
        **{name: ("sample", ones) for name in ("exact_match", "contains", "token_f1", "anls", "vqa_accuracy")},
        "entropy": ("sample", rng.exponential(0.5, n)),
        "reference_logprob": ("sample", -rng.exponential(np.where(right, 0.5, 2.0))),
        "seconds": ("sample", np.zeros(n)),
    }
    variables["reference_logprob_mean"] = ("sample", variables["reference_logprob"][1] / 2)
    cells = np.arange(side * side)
    coordinates: dict[str, Any] = {
        "sample": np.array([f"planted-{seed}-{i}" for i in range(n)], dtype=_TEXT),
        "layer": np.arange(n_layers),
        "head": np.arange(n_heads),
        "corner": np.array(["x0", "y0", "x1", "y1"], dtype=_TEXT),
        "axis": np.array(["width", "height"], dtype=_TEXT),
        "segment": (token, np.tile(segment.astype(np.int8), (n, 1))),
        "token_box": ((*token, "corner"), spread(grid_boxes[None], np.nan)),
        "view": (token, spread(np.zeros((1, side * side)), -1, np.int32)),
        "row": (token, spread(cells[None] // side, -1, np.int32)),
        "col": (token, spread(cells[None] % side, -1, np.int32)),
        "image_index": (token, spread(np.zeros((1, side * side)), -1, np.int32)),
        "token_id": (token, np.tile(np.arange(n_tokens), (n, 1))),
        "token_text": (token, np.tile(np.array(["<s>", *["<image>"] * side**2, *words, ":"], dtype=_TEXT), (n, 1))),
        "n_token": ("sample", np.full(n, n_tokens)),
        "layer_kind": ("layer", np.full(n_layers, "full").astype(_TEXT)),
        "dataset": ("sample", np.full(n, "planted").astype(_TEXT)),
        "split": ("sample", np.full(n, "test").astype(_TEXT)),
        "image_id": ("sample", np.array([f"planted-{seed}-picture-{i}" for i in image], dtype=_TEXT)),
        "visibility": ("sample", np.where(absent, "none", "visible").astype(_TEXT)),
        "knob_absent": ("sample", absent),
        "knob_n_cards": ("sample", n_cards[image]),
        "knob_card_size": ("sample", size[image]),
        "knob_contrast": ("sample", rng.uniform(0.6, 1.0, n_images)[image]),
        "planted_seen": ("sample", sees),
        "planted_readable": ("sample", rng.random(n) < 0.7),
    }
    source = {
        "model": "planted",
        "revision": "",
        "family": "synthetic",
        "dtype": "float32",
        "prompt": "base",
        "prompt_order": "image-first",
    }
    return describe(xr.Dataset(variables, coords=coordinates, attrs={**source, "benchmark": "planted", "split": "test"}))


def planted_answers(n: int = 80, gains: Mapping[str, float] | None = None, *, seed: int = 0, per_image: int = 2) -> xr.Dataset:
    """Answers of `base`, right half of the time, and of further methods that gain a known accuracy over it, (method, sample).

    Parameters
    ----------
    gains
        Per method, its accuracy less that of `base`, from -0.4 to 0.4; 0 is a method without effect. A tenth of the answers changes
        either way, and more of one kind by the gain. By default ``{"inst": 0.0, "vea": 0.2}``.
    per_image
        How many samples share a picture; they mostly share their luck.
    """
    wanted = {"inst": 0.0, "vea": 0.2} if gains is None else dict(gains)
    rng = np.random.default_rng([seed, 20251020])
    base = _luck(rng, n, per_image) < 0.5
    scores = [base]
    for gain in wanted.values():
        change = 0.2 + 2 * np.where(base, max(-gain, 0), max(gain, 0))
        scores.append(np.where(_luck(rng, n, per_image) < change, ~base, base))
    image = np.arange(n) // per_image
    return xr.Dataset(
        {"exact_match": (("method", "sample"), np.array(scores, dtype=np.float64))},
        coords={
            "method": np.array(["base", *wanted], dtype=_TEXT),
            "sample": np.array([f"planted-{seed}-{i}" for i in range(n)], dtype=_TEXT),
            "image_id": ("sample", np.array([f"planted-{seed}-picture-{i}" for i in image], dtype=_TEXT)),
        },
    )


def _luck(rng: np.random.Generator, n: int, per_image: int) -> Any:
    """Uniform numbers (n,), of which samples of one picture share theirs nine times in ten."""
    own, first = rng.random(n), np.arange(n) // per_image * per_image
    return np.where(rng.random(n) < 0.9, own[first], own)


def _cards(rng: np.random.Generator, counts: Any, sizes: Any, edge: int) -> Any:
    """(picture, 5, 4) squares of each picture's size anywhere in it, of which the first `counts` do not overlap.

    Crowded pictures are drawn again as a whole: any other way would give the first card other places than the last.
    """
    corners = np.zeros((len(counts), 5, 2))
    open_ones = np.arange(len(counts))
    while open_ones.size:
        size = sizes[open_ones]
        corners[open_ones] = rng.integers(0, edge - size[:, None, None] + 1, (open_ones.size, 5, 2))
        drawn = corners[open_ones]
        near = (np.abs(drawn[:, :, None] - drawn[:, None]) < size[:, None, None, None]).all(-1)
        real = np.arange(5) < counts[open_ones][:, None]
        clash = (near & real[:, :, None] & real[:, None] & ~np.eye(5, dtype=bool)).any((1, 2))
        open_ones = open_ones[clash]
    return np.concatenate([corners, corners + sizes[:, None, None]], axis=-1)


def _grid_shares(boxes: Any, edges: Any) -> Any:
    """Share (n, token) of each cell of a grid that a box (n, 4) covers: an outer product, since both are upright."""
    x, y = (
        np.clip(np.minimum(boxes[:, axis + 2, None], edges[1:]) - np.maximum(boxes[:, axis, None], edges[:-1]), 0, None) for axis in (0, 1)
    )
    return (y[:, :, None] * x[:, None, :]).reshape(len(boxes), -1) / (edges[1] - edges[0]) ** 2


def _written(sample: Sample, side: int) -> Encoding:
    """A prompt of one marker, the picture, the question's words and a marker, as an encoding without a tokenizer."""
    picture = sample.open_images()[0]
    cell, scale = (1.0, 1.0), (side / picture.width, side / picture.height)
    regions = grid(side, side, cell, (0.0, 0.0), scale, picture.size)
    words = sample.question.split()
    parts = ["template", *["image"] * len(regions), *["question"] * len(words), "template"]
    segment = np.array([SEGMENTS.index(part) for part in parts], dtype=np.int8)
    at = segment == SEGMENTS.index("image")

    def spread(values: Any, fill: float) -> Any:
        spread = np.full((len(parts), *values.shape[1:]), fill, dtype=values.dtype)
        spread[at] = values
        return spread

    return Encoding(
        inputs={},
        text="",
        token_ids=np.arange(len(parts)),
        token_text=("<s>", *["<image>"] * len(regions), *words, ":"),
        token_boxes=spread(regions.boxes, np.nan),
        token_scale=spread(regions.scale, np.nan),
        segment=segment,
        view=spread(regions.view, -1),
        row=spread(regions.row, -1),
        col=spread(regions.col, -1),
        image_index=spread(regions.image_index, -1),
        images=(picture,),
    )


def _region(rng: np.random.Generator, width: int, height: int, role: Any) -> Region:
    x, y = rng.uniform(0, width * 0.7), rng.uniform(0, height * 0.7)
    return Region((x, y, x + width * rng.uniform(0.1, 0.3), y + height * rng.uniform(0.1, 0.3)), role)


def _picture(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def _text_config(**changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(_SPECIAL) + len(_MARKS) + len(dict.fromkeys(WORDS)),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 24,  # not hidden / heads, as in several real models
        "max_position_embeddings": 8192,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        **changes,
    }


def _llava(text: dict[str, Any], image: int, patch: int) -> tuple[Any, Any]:
    words = tokenizer()
    vision = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=image, patch_size=patch
    )
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=transformers.LlamaConfig(**text),
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    pictures = transformers.CLIPImageProcessorPil(size={"shortest_edge": image}, crop_size={"height": image, "width": image})
    processor = transformers.LlavaProcessor(
        image_processor=pictures,
        tokenizer=words,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_TEMPLATE,
    )
    model = transformers.LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    return model, processor


_BUILDERS: dict[str, Callable[..., tuple[Any, Any]]] = {"llava": _llava}


def _randomise(model: Any, seed: int, sharpness: float = 4.0) -> None:
    """Weights that keep activations of size one, with query and key of the decoder scaled so that its attention is peaky."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=random)
            if weight.ndim >= 2:
                weight.copy_(noise / math.sqrt(math.prod(weight.shape[1:])))
            elif "norm" in name and name.endswith("weight"):
                weight.add_(0.3 * noise)
            else:
                weight.copy_(noise if name.endswith("class_embedding") else 0.1 * noise)
            if "language_model" in name and name.endswith(("q_proj.weight", "k_proj.weight")):
                weight.mul_(math.sqrt(sharpness))
    model.eval()
