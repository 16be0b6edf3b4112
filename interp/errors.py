"""Every error a user can cause, as one clear sentence that names the input and the remedy.

All of them derive from :class:`InterpError`; the command line prints the sentence and exits with status 2.
"""

from __future__ import annotations


class InterpError(Exception):
    """Base of every error that bad input can cause. Its message is one sentence: the input, then the remedy."""


class ModelError(InterpError):
    """The model cannot be found, loaded, or used (unknown id, text-only model, unsupported family)."""


class BenchmarkError(InterpError):
    """The benchmark, its split or its files cannot be used (unknown name, unknown split, empty)."""


class SampleError(InterpError):
    """One sample is unusable (no reference, a box outside the image)."""


class ImageError(SampleError):
    """An image file is missing, corrupt, or not an image."""


class AlignmentError(InterpError):
    """The prompt, its tokens and the image geometry do not line up; nothing is guessed."""


class CaptureError(InterpError):
    """A captured attention row failed its self-check (does not sum to one, or rows @ V is not the model's own)."""


class OrganismError(InterpError):
    """An organism is unknown, or its training cannot start or resume."""


class StoreError(InterpError):
    """A store on disk is missing, damaged, unfinished, of another kind, or was begun with other settings."""
