"""Making artefacts: every one that is not there yet, for every model, one model at a time; then the index of all that is there."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from experiments.artefacts.context import Context
from experiments.artefacts.files import fingerprint, finished, folder_of, known_artefacts, spent, write
from experiments.artefacts.interface import Artefact
from experiments.artefacts.page import index_page
from interp.errors import InterpError
from interp.reproduce import Reproduced, ReproduceSettings


@dataclass(frozen=True)
class Artefacts:
    """A collection, as `interp reproduce` looks it up."""

    artefacts: Sequence[Artefact]

    def make(self, names: Sequence[str], settings: ReproduceSettings, *, again: bool, report: Callable[[str], None]) -> Reproduced:
        """Make those named; the index is written at the end, and also when nothing was left to do."""
        began = time.perf_counter()
        done = Reproduced()
        chosen = [artefact for artefact in self.artefacts if artefact.name in names]
        resume = settings.command_line("reproduce")
        contexts: list[Context] = []
        for model in settings.model:
            try:
                context = Context(
                    model, settings, resume=resume.replace("interp reproduce", shlex.join(["interp", "reproduce", *names]), 1)
                )
            except InterpError as error:
                done.failed.append(f"{model}: {error}")
                continue
            for artefact in chosen:
                if not artefact.together:
                    _make_one(artefact, [context], settings, again, report, done)
            contexts.append(context)
            if len(settings.model) > 1:
                context.close()
        for artefact in chosen:
            if artefact.together and contexts:
                _make_one(artefact, contexts, settings, again, report, done)
        index = settings.out / "index.html"
        settings.out.mkdir(parents=True, exist_ok=True)
        page = index_page(known_artefacts(settings.out), self.artefacts, done.failed, time.perf_counter() - began)
        index.write_text(page, encoding="utf-8")
        done.files.append(index)
        return done


def _make_one(
    artefact: Artefact,
    contexts: Sequence[Context],
    settings: ReproduceSettings,
    again: bool,
    report: Callable[[str], None],
    done: Reproduced,
) -> None:
    models = ", ".join(context.model for context in contexts)
    folder, key = folder_of(artefact, contexts, settings.out), fingerprint(artefact, contexts)
    known = None if again else finished(folder, key)
    if known is not None:
        done.sentences.append(f"{artefact.name}, {models}: {known['sentence']} (finished before)")
        return
    report(f"{artefact.name}, {models}")
    began = time.perf_counter()
    try:
        result = artefact.compute(list(contexts) if artefact.together else contexts[0])
    except InterpError as error:
        done.failed.append(f"{artefact.name}, {models}: {error}")
        return
    notes = write(artefact, contexts, result, folder, key, time.perf_counter() - began + spent(folder, contexts))
    done.files.append(folder)
    done.sentences.append(f"{artefact.name}, {models}: {result.sentence}")
    done.sentences += [note for note in notes if note not in done.sentences]
