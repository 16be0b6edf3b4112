"""The parts of the causal study that `experiments.causal` runs: heads, evidence, answers."""
