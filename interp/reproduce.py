"""Artefacts (figures and tables of a paper) that other packages register, looked up by name.

A package registers a collection under the entry-point group `GROUP`; nothing here, and nothing below, imports such a package by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import BeforeValidator, Field

from interp.errors import InterpError
from interp.settings import ModelSettings, TraceSettings

GROUP = "interp.artefacts"

_BENCHMARK = ("benchmark", "split", "limit", "annotations", "path", "images", "skip_bad", "max_new_tokens")


def _several(value: Any) -> Any:
    """One name, several words, or names with commas between."""
    words = [value] if isinstance(value, str) else value
    return tuple(name for word in words for name in word.split(",") if name) if isinstance(words, list | tuple) else value


class ReproduceSettings(ModelSettings):
    """`interp reproduce`."""

    model: Annotated[tuple[str, ...], BeforeValidator(_several), Field(min_length=1)] = ("demo/llava",)
    """A model that ships with the package (demo/NAME), a local directory, or a Hugging Face id; may be repeated."""
    benchmark: str = "digits"
    """digits, visual-cot or jsonl (your own data)."""
    split: str | None = None
    """The part that is judged; by default test, of jsonl all rows."""
    limit: Annotated[int | None, Field(ge=2)] = None
    """Judge the first so many samples only, and fit layers and probes on fewer; by default as many as each artefact says."""
    annotations: Path | None = None
    """visual-cot: its annotation file."""
    path: Path | None = None
    """jsonl: its file."""
    images: Path | None = None
    """visual-cot: its picture folder; jsonl: the folder that paths begin at, if it is not the file's."""
    skip_bad: bool = False
    """visual-cot, jsonl: leave out, and count, unusable rows."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 16
    """Longest answer, in tokens."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Samples per forward pass."""
    seed: int = 0
    """For what is drawn at random."""
    out: Path = Path("results")
    """Folder that artefacts are written below."""

    def benchmark_options(self) -> dict[str, Any]:
        """What `interp.load_benchmark` is given besides its name, without a limit."""
        asked = {name: getattr(self, name) for name in _BENCHMARK if name != "limit"}
        return TraceSettings(model=self.model[0], out=self.out, **asked).benchmark_options()


class Artefact(Protocol):
    """What is listed of an artefact: its name, its title, and in a sentence what it says."""

    @property
    def name(self) -> str:
        """On the command line, and of its folder."""
        ...

    @property
    def title(self) -> str:
        """What it is."""
        ...

    @property
    def says(self) -> str:
        """What question it answers."""
        ...


@dataclass
class Reproduced:
    """What a run did: a sentence for every artefact and model, folders and pages written, and a sentence for what could not be made."""

    sentences: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class Collection(Protocol):
    """Artefacts that are made together; what an entry point of `GROUP` loads."""

    @property
    def artefacts(self) -> Sequence[Artefact]:
        """In the order they are listed and made."""
        ...

    def make(self, names: Sequence[str], settings: ReproduceSettings, *, again: bool, report: Callable[[str], None]) -> Reproduced:
        """Make some of them for every model of `settings`, unless they are there; `again` makes them anew."""
        ...


def collections() -> list[Collection]:
    """Every collection that is registered.

    Raises
    ------
    InterpError
        None is registered, one cannot be imported, or two artefacts share a name.
    """
    found: list[Collection] = []
    known: dict[str, str] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            collection = entry.load()
        except (ImportError, AttributeError) as error:
            raise InterpError(f"Artefacts {entry.value!r} cannot be loaded ({error}); install their package again.") from error
        for artefact in collection.artefacts:
            if artefact.name in known:
                raise InterpError(
                    f"Artefact {artefact.name!r} is registered by {known[artefact.name]!r} and by {entry.value!r}; uninstall one of them."
                )
            known[artefact.name] = entry.value
        found.append(collection)
    if not found:
        raise InterpError(f"No package registers artefacts (entry points {GROUP!r}); install this one again: pip install -e .")
    return found


def listed() -> list[Artefact]:
    """All artefacts that are registered, in order."""
    return [artefact for collection in collections() for artefact in collection.artefacts]


def reproduce(
    names: Sequence[str], settings: ReproduceSettings, *, again: bool = False, report: Callable[[str], None] = lambda _: None
) -> Reproduced:
    """Make artefacts by name, all of them where none is named, for every model.

    An artefact that is finished with the same settings, model and code is left as it is.

    Parameters
    ----------
    names
        Of the artefacts; each collection makes its own in its own order.
    settings
        Models, benchmark and folder.
    again
        Make finished ones anew.
    report
        Told in a sentence what is being done.

    Returns
    -------
    Reproduced
        With a single artefact and model what could not be made is raised; of several it is listed, and the others are made.

    Raises
    ------
    InterpError
        A name is unknown, a model is given twice, or nothing could be made.
    """
    everything = collections()
    known = [artefact.name for collection in everything for artefact in collection.artefacts]
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise InterpError(f"Artefact {unknown!r} is unknown; use some of {', '.join(known)} (interp reproduce --list).")
    twice = next((model for k, model in enumerate(settings.model) if model in settings.model[:k]), None)
    if twice is not None:
        raise InterpError(f"Model {twice!r} is given twice; name each model once.")
    if settings.out.exists() and not settings.out.is_dir():
        raise InterpError(f"Output {str(settings.out)!r} is a file; give a folder with --out.")
    done = Reproduced()
    for collection in everything:
        mine = [artefact.name for artefact in collection.artefacts if artefact.name in (names or known)]
        if mine:
            part = collection.make(mine, settings, again=again, report=report)
            done.sentences += part.sentences
            done.files += part.files
            done.failed += part.failed
    if done.failed and not done.sentences:
        raise InterpError(done.failed[0])
    return done
