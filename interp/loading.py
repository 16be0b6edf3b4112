"""A model by name: one that ships with the package, a local folder, or a Hugging Face id."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
import torch
import transformers
from safetensors import SafetensorError
from transformers.utils.hub import resolve_revision

from interp.errors import ModelError
from interp.families import family_for
from interp.processors import load_processor
from interp.prompts import PromptOrder
from interp.vlm import VLM, check_config

_DEMO = "demo/"
_ORGANISMS = Path(__file__).parent / "organisms"


def load_vlm(
    name: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    prompt_order: PromptOrder = "image-first",
    image_options: Mapping[str, Any] | None = None,
) -> VLM:
    """Load a vision-language model by name.

    Parameters
    ----------
    name
        ``demo/NAME`` for a model that ships with the package, a local directory, or a Hugging Face id.
    device
        By default a GPU where there is one.
    dtype
        ``float32``, ``bfloat16``, ...; ``auto`` keeps the checkpoint's own.
    revision
        Branch, tag or commit of a Hugging Face id.
    prompt_order
        ``image-first`` (the paper's) or ``question-first``.
    image_options
        Settings of the picture processing that differ from the checkpoint's, by their names in transformers, for example
        ``{"do_pan_and_scan": True}``.

    Raises
    ------
    ModelError
        The name is unknown, the hub cannot be reached, the model cannot be used, or an image option is unknown.

    Examples
    --------
    >>> vlm = interp.load_vlm("demo/llava")  # doctest: +SKIP
    >>> vlm.generate(sample)  # doctest: +SKIP
    '7'
    """
    source = _resolve(str(name))
    offline = _is_folder(source) or not _hub_resolves()
    # A branch moves, its commit does not: asked once, so that all files are of one state, and kept as provenance.
    commit = resolve_revision(source, revision, local_files_only=offline)
    where = {"revision": commit, "local_files_only": offline}
    try:
        config = transformers.AutoConfig.from_pretrained(source, **where)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(_not_found(str(name))) from error
    check_config(config, str(name))
    family_for(config)
    try:
        processor = load_processor(source, config, **where)
        with _without_bar() if str(name).startswith(_DEMO) else nullcontext():
            model = transformers.AutoModelForImageTextToText.from_pretrained(
                source, dtype=_dtype(dtype), attn_implementation="sdpa", use_safetensors=True, **where
            )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"Model {str(name)!r} could not be loaded ({reason}); it needs a processor and weights as .safetensors files."
        ) from error
    target: Any = device if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = model.to(target)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"Device {str(target)!r} cannot be used here; pass device='cpu', or a device that torch can see.") from error
    known = fingerprint(Path(source)) if _is_folder(source) else getattr(commit, "resolved", revision)
    return VLM(model, processor, prompt_order, name=str(name), revision=known, image_options=image_options)


def shipped() -> list[str]:
    """The models that ship with the package, as ``demo/NAME``."""
    return sorted(_DEMO + found.parent.name for found in _ORGANISMS.glob("*/config.json"))


def _resolve(name: str) -> str:
    """Where a name's files are: a folder of the package, a local directory, or the hub id itself."""
    if not name.startswith(_DEMO):
        return name
    folder = _ORGANISMS / name.removeprefix(_DEMO)
    if (folder / "config.json").is_file():
        return str(folder)
    known = shipped()
    raise ModelError(f"Demo model {name!r} does not ship with this package; use {' or '.join(known) if known else 'a Hugging Face id'}.")


@contextmanager
def _without_bar() -> Iterator[None]:
    """A model of a few megabytes is there before its progress bar can be read."""
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()


def fingerprint(folder: Path) -> str:
    """A local checkpoint's revision: its weights' digest, of large files from their size and both ends only.

    Without it a store or a profile of one training run would be taken for another's of the same name.
    """
    digest, end = hashlib.sha256(), 8 << 20
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        with path.open("rb") as file:
            digest.update(path.name.encode() + size.to_bytes(8, "little") + file.read(end))
            file.seek(max(end, size - end))
            digest.update(file.read(end))
    return f"sha256:{digest.hexdigest()[:12]}"


def _is_folder(name: str) -> bool:
    return Path(name).is_dir()


def _hub_resolves() -> bool:
    """False where the hub's name cannot be looked up: then only its local cache is asked, instead of retrying for half a minute."""
    if {"HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"} & set(os.environ):
        return True  # the proxy looks names up
    try:
        socket.getaddrinfo(urlsplit(huggingface_hub.constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


def _not_found(name: str) -> str:
    if _is_folder(name):
        return (
            f"Folder {name!r} does not hold a usable model; it needs a config.json of a known model type (write it with save_pretrained)."
        )
    return (
        f"Model {name!r} was not found: it is no demo model and no local folder, and the Hugging Face hub does not know it or cannot be "
        "reached; check the spelling, log in for a gated model, or download it first."
    )


def _dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype):
        raise ModelError(f"Number type {dtype!r} is unknown; use auto, float32, bfloat16 or float16.")
    return found
