"""The fused optimizers: a file for each algorithm."""
