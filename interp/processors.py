"""A model's processor: loaded with or without torchvision, and set to treat pictures as asked.

Some processors of transformers hold a video processor, which needs torchvision, and cannot be built without it even for pictures alone.
Without torchvision they are built here without that part.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub.dataclasses import validate_typed_dict
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from transformers.utils.hub import cached_file

from interp.errors import ModelError

_VIDEO = "video_processor"
# Where a checkpoint names its processor's class; older ones have no file of the first name.
_NAMED_IN = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json", "tokenizer_config.json")
# How arrays are handed over, which is not the user's choice here.
_NOT_OPTIONS = {"data_format", "device", "disable_grouping", "image_seq_length", "input_data_format", "return_tensors"}


def torchvision_works() -> bool:
    """Whether torchvision prepares the pictures: it is installed.

    Raises
    ------
    ModelError
        It is installed and cannot be imported, and then neither can most of transformers.
    """
    if find_spec("torchvision") is None:
        return False
    try:
        import_module("torchvision")
    except (ImportError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"The installed torchvision cannot be imported ({reason}); install the build that belongs to your torch, or uninstall it: "
            "pictures are then prepared by Pillow."
        ) from error
    return True


def load_processor(source: str | Path, config: Any, **where: Any) -> Any:
    """The processor of a checkpoint, whose pictures torchvision prepares where it is installed, and Pillow otherwise.

    Parameters
    ----------
    source
        A folder that ``save_pretrained`` wrote, or a Hugging Face id.
    config
        The checkpoint's configuration; its type says which class is meant where no file does.
    where
        ``revision``, ``local_files_only``, ``cache_dir``: as in ``from_pretrained``.

    Raises
    ------
    ModelError
        torchvision is installed but cannot be imported.
    OSError, ValueError, ImportError
        From transformers: files are missing or damaged, or the processor needs torchvision for more than video.
    """
    kind = _kind(str(source), config, where)
    # a video part that is not the last argument could not be left out without moving the others
    shorter = without_video(kind) if kind is not None and kind.get_attributes()[-1:] == [_VIDEO] else None
    if torchvision_works() or shorter is None:
        try:
            return transformers.AutoProcessor.from_pretrained(source, **where)
        except OSError:  # one saved without torchvision has no settings for video
            if shorter is None:
                raise
    return shorter.from_pretrained(source, **where)


def _kind(source: str, config: Any, where: Mapping[str, Any]) -> type[Any] | None:
    """The processor class of a checkpoint, found as ``AutoProcessor`` finds it; None where transformers knows of none."""
    for name in _NAMED_IN:
        try:
            found = cached_file(source, name, **where)
        except OSError:  # no such file
            continue
        said = json.loads(Path(str(found)).read_text(encoding="utf-8")).get("processor_class")
        if said is not None:
            return getattr(transformers, said, None) or _mapped(config)
    return _mapped(config)


def _mapped(config: Any) -> type[Any] | None:
    known: Any = transformers.PROCESSOR_MAPPING
    return known.get(type(config), None)


def without_video(processor: type[Any]) -> type[Any]:
    """The same processor class, less its video part. Saved, it is what the class itself would be."""

    def get_attributes(cls: type[Any]) -> list[str]:
        return [name for name in super(made, cls).get_attributes() if name != _VIDEO]  # type: ignore[misc]

    def prepare_inputs_layout(self: Any, *args: Any, **kwargs: Any) -> Any:
        prepared = super(made, self).prepare_inputs_layout(*args, **kwargs)  # type: ignore[misc]
        if prepared[2] is not None:  # pictures, text, videos, sound; without this a video would be left out silently
            raise ModelError("Video is not supported; give its frames as pictures.")
        return prepared

    body = {
        "__module__": processor.__module__,
        "get_attributes": classmethod(get_attributes),
        "prepare_inputs_layout": prepare_inputs_layout,
    }
    made = type(processor.__name__, (processor,), body)
    return made


def with_image_options(processor: Any, options: Mapping[str, Any], config: Any) -> Any:
    """A copy of a processor that treats pictures otherwise.

    Parameters
    ----------
    options
        Settings of its image processor by name, as transformers calls them (``do_pan_and_scan``, ``size``, ``max_patches``, ...).
    config
        The model's configuration, which some settings must agree with.

    Raises
    ------
    ModelError
        A setting is unknown or has no such value, or the model was not built for it.
    """
    images = processor.image_processor
    known = sorted(set(images.valid_kwargs.__annotations__) - _NOT_OPTIONS)
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ModelError(f"Image option {unknown[0]!r} is unknown to {type(images).__name__}; use some of {', '.join(known)}.")
    made = copy.copy(processor)
    own = getattr(processor, "images_kwargs", None) or {}
    # what the processor passes to every call would win over its image processor's own setting
    made.images_kwargs = {name: value for name, value in own.items() if name not in options}
    try:
        validate_typed_dict(images.valid_kwargs, dict(options))
        made.image_processor = type(images).from_dict(images.to_dict(), **copy.deepcopy(dict(options)))
        shapes = _shapes(made)
    except (StrictDataclassError, TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"Image options {dict(options)} cannot be used ({reason}); correct their values.") from error
    fixed = _shapes(processor)
    if len(fixed) == 1 and shapes != fixed:
        raise ModelError(
            f"Image options {dict(options)} give the vision tower arrays of shape {sorted(shapes)[0]} where the model was built for "
            f"{next(iter(fixed))}; leave out what changes it."
        )
    for name in options:
        theirs = _of_model(config, name)
        if theirs is not None and theirs != getattr(made.image_processor, name, None):
            raise ModelError(f"Image option {name!r} differs from the model's own {theirs}, which it was built with; leave it out.")
    return made


def _shapes(processor: Any) -> set[tuple[int, ...]]:
    """Shape of what the vision tower gets at once, for a wide and a high picture: one where a picture's size does not matter."""
    found = set()
    for size in ((96, 32), (40, 60)):
        asked = {**(getattr(processor, "images_kwargs", None) or {}), "return_tensors": "pt"}
        pixels = processor.image_processor([Image.new("RGB", size)], **asked)["pixel_values"]
        found.add(tuple(pixels.shape[-2:] if pixels.ndim > 2 else pixels.shape[-1:]))
    return found


def _of_model(config: Any, name: str) -> Any:
    """What the model's own configuration says about a setting of the picture processing; None where it says nothing."""
    for part in (config, config.vision_config):
        for own in (name, f"spatial_{name}"):
            if (value := getattr(part, own, None)) is not None:
                return value
    return None
