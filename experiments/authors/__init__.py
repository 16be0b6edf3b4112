"""The authors' code, written again from the published equations and the list of its faults: the reference side of `compare_authors`."""
