"""What an artefact is, and what it gives: a table, a figure, labelled data, a sentence, and the paper's numbers beside ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from experiments.paper import ORDER, Published

STATEMENT = (
    "Organism results (models named demo/...) validate the tool and show that an effect can occur; they are no evidence about released "
    "checkpoints."
)

INTERVALS = "Intervals: 95 % bootstrap over pictures."

NONE_SEEN = f"{INTERVALS} Where a share is 0 they have no width; the sentence then gives the exact bound (Clopper and Pearson, 95 %)."

OTHERS = "The paper's are of the models and data named beside them; where these differ from the page's own, directions compare, not sizes."


OWN_GRADCAM = (
    "For agla no image-text matching model is at hand: its GradCAM is of the answering model itself and it answers greedily, while the "
    "paper's is of BLIP-ITM and samples."
)


@dataclass(frozen=True)
class Beside:
    """One number of ours beside one of the paper's: the same quantity, measured in the paper's prompt order."""

    ours: str
    paper: Published


@dataclass(frozen=True)
class Result:
    """What an artefact gives for a model.

    Parameters
    ----------
    table
        One row a number or comparison, columns plain; text of others is escaped where it is shown.
    figure
        Of `interp.plots`, with its caption.
    data
        What the figure was drawn from, with the trace's provenance as attributes.
    sentence
        What it says, with figures and intervals, in whatever direction they came out. Plain text.
    beside
        Where the paper has a number in the same setting.
    apart
        Why the paper's numbers do not stand beside ours (or not all of them).
    figures
        Further figures, by file name.
    n
        Samples behind it, in words where it is more than one number.
    part
        Of the benchmark, that these samples are of: ``judged``, or ``profile``.
    intervals
        What its intervals are; empty where it has none.
    """

    table: pd.DataFrame
    figure: go.Figure
    data: xr.Dataset
    sentence: str
    beside: tuple[Beside, ...] = ()
    apart: str = ""
    figures: Mapping[str, go.Figure] = field(default_factory=dict)
    n: int | str = ""
    part: str = "judged"
    intervals: str = INTERVALS


@dataclass(frozen=True)
class Artefact:
    """A figure or table that can be made for a model.

    Parameters
    ----------
    name
        On the command line, and of its folder.
    title
        What it is, and which figure or table of the paper.
    says
        Which question it answers, in a sentence.
    compute
        From a `Context` to a `Result`; with `together`, from the list of all models' contexts.
    together
        It sets all models of a run side by side.
    """

    name: str
    title: str
    says: str
    compute: Callable[..., Result]
    together: bool = False


def beside_in(order: str, *pairs: tuple[str, Published]) -> tuple[tuple[Beside, ...], str]:
    """Ours beside the paper's where the prompt order is the paper's; otherwise nothing, and why."""
    if order == ORDER:
        return tuple(Beside(ours, published) for ours, published in pairs), ""
    return (), f"The paper's numbers are {ORDER} and these are {order}, so they do not stand side by side."
