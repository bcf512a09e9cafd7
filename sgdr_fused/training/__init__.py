"""Tools around a training: the range test, snapshots, growing batches, rates from curvature; InStepScheduler."""

from .in_step_scheduler import InStepScheduler

__all__ = ["InStepScheduler"]
