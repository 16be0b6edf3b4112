"""One labelled array, one plotly figure. Every function returns the figure; nothing is computed, shown or written here."""

from interp.plots.accuracy_by_quality import accuracy_by_quality
from interp.plots.attention_over_image import attention_over_image
from interp.plots.attention_shift import attention_shift
from interp.plots.before_after import before_after
from interp.plots.disconnect_table import disconnect_table
from interp.plots.evidence_by_correctness import evidence_by_correctness
from interp.plots.fate_shares import fate_shares
from interp.plots.files import save
from interp.plots.head_effects import head_effects
from interp.plots.head_grounding import head_grounding
from interp.plots.knockout_curves import knockout_curves
from interp.plots.layer_maps import layer_maps
from interp.plots.look_and_write import look_and_write
from interp.plots.mass_by_layer import mass_by_layer
from interp.plots.methods import methods
from interp.plots.patching_map import patching_map

__all__ = [
    "accuracy_by_quality",
    "attention_over_image",
    "attention_shift",
    "before_after",
    "disconnect_table",
    "evidence_by_correctness",
    "fate_shares",
    "head_effects",
    "head_grounding",
    "knockout_curves",
    "layer_maps",
    "look_and_write",
    "mass_by_layer",
    "methods",
    "patching_map",
    "save",
]
