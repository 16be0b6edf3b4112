"""One module per figure or table, built on the public names of interp only."""
