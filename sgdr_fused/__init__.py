"""Fused PyTorch optimizers whose learning-rate schedule runs on the device, inside the update."""

from . import schedules
from .adam import FusedAdam, FusedAdamW
from .sgd import FusedSGD
from .snapshots import SnapshotEnsemble

__version__ = "0.1.0"
__all__ = ["FusedAdam", "FusedAdamW", "FusedSGD", "SnapshotEnsemble", "schedules"]
