"""One labelled array, one plotly figure. Every function returns the figure; nothing is computed, shown or written here."""

from interp.plots.accuracy_by_quality import accuracy_by_quality
from interp.plots.attention_over_image import attention_over_image
from interp.plots.attention_shift import attention_shift
from interp.plots.before_after import before_after
from interp.plots.disconnect_table import disconnect_table
from interp.plots.evidence_by_correctness import evidence_by_correctness
from interp.plots.files import save
from interp.plots.head_grounding import head_grounding
from interp.plots.layer_maps import layer_maps
from interp.plots.mass_by_layer import mass_by_layer
from interp.plots.methods import methods

__all__ = [
    "accuracy_by_quality",
    "attention_over_image",
    "attention_shift",
    "before_after",
    "disconnect_table",
    "evidence_by_correctness",
    "head_grounding",
    "layer_maps",
    "mass_by_layer",
    "methods",
    "save",
]
