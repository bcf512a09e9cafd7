"""Fused PyTorch optimizers whose learning-rate schedule runs on the device, inside the update."""

from . import schedules
from ._options import Options
from .adadelta import FusedAdadelta
from .adagrad import FusedAdagrad
from .adam import FusedAdam, FusedAdamW
from .adamax import FusedAdamax
from .averages import EMA, refreshed_batch_norm
from .growing_batch import GrowingBatchSampler
from .hessian_free import HessianFreeLR, hessian_free_lr
from .lamb import FusedLAMB
from .lars import FusedLARS
from .nadam import FusedNAdam
from .range_test import LRFindResult, lr_find
from .rmsprop import FusedRMSprop
from .sgd import FusedSGD
from .snapshots import SnapshotEnsemble

__version__ = "0.1.0"
__all__ = [
    "EMA",
    "FusedAdadelta",
    "FusedAdagrad",
    "FusedAdam",
    "FusedAdamW",
    "FusedAdamax",
    "FusedLAMB",
    "FusedLARS",
    "FusedNAdam",
    "FusedRMSprop",
    "FusedSGD",
    "GrowingBatchSampler",
    "HessianFreeLR",
    "LRFindResult",
    "Options",
    "SnapshotEnsemble",
    "hessian_free_lr",
    "lr_find",
    "refreshed_batch_norm",
    "schedules",
]
