"""One labelled array, one plotly figure. Every function returns the figure; nothing is shown or written here."""

from interp.plots.attention_over_image import attention_over_image
from interp.plots.mass_by_layer import mass_by_layer

__all__ = ["attention_over_image", "mass_by_layer"]
