"""Tools around a training: the range test, snapshots, growing batches, rates from curvature."""
