"""One labelled array, one plotly figure. Every function returns the figure; nothing is computed, shown or written here."""

from interp.plots.accuracy_by_quality import accuracy_by_quality
from interp.plots.across_models import across_models
from interp.plots.attention_over_image import attention_over_image
from interp.plots.attention_shift import attention_shift
from interp.plots.before_after import before_after
from interp.plots.by_level import by_level
from interp.plots.curves_by_model import curves_by_model
from interp.plots.disconnect_table import disconnect_table
from interp.plots.effects import effects
from interp.plots.evidence_by_correctness import evidence_by_correctness
from interp.plots.fate_shares import fate_shares
from interp.plots.files import save
from interp.plots.gallery import Example, gallery
from interp.plots.head_effects import head_effects
from interp.plots.head_grounding import head_grounding
from interp.plots.knockout_curves import knockout_curves
from interp.plots.layer_maps import layer_maps
from interp.plots.look_and_write import look_and_write
from interp.plots.mass_by_layer import mass_by_layer
from interp.plots.method_stages import method_stages
from interp.plots.methods import methods
from interp.plots.patching_map import patching_map
from interp.plots.profile_stability import profile_stability
from interp.plots.shares import shares

__all__ = [
    "Example",
    "accuracy_by_quality",
    "across_models",
    "attention_over_image",
    "attention_shift",
    "before_after",
    "by_level",
    "curves_by_model",
    "disconnect_table",
    "effects",
    "evidence_by_correctness",
    "fate_shares",
    "gallery",
    "head_effects",
    "head_grounding",
    "knockout_curves",
    "layer_maps",
    "look_and_write",
    "mass_by_layer",
    "method_stages",
    "methods",
    "patching_map",
    "profile_stability",
    "save",
    "shares",
]
