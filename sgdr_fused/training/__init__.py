"""What goes around a training: the range test, snapshots, batch sizes, rates from curvature."""
