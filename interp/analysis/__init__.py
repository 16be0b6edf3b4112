"""Labelled arrays in, labelled arrays out. Nothing here needs torch: a stored trace is analysed on a laptop."""

from interp.analysis.auroc import auroc, evidence_labels
from interp.analysis.bootstrap import cluster_bootstrap, mean_interval
from interp.analysis.mass import segment_mass
from interp.analysis.profile import Profile, profile_layers, profiled_map

__all__ = ["Profile", "auroc", "cluster_bootstrap", "evidence_labels", "mean_interval", "profile_layers", "profiled_map", "segment_mass"]
