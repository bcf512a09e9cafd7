"""Fused PyTorch optimizers whose learning-rate schedule runs on the device, inside the update."""

import sys

from . import _former_modules, _torch_versions, schedules
from ._engine.options import Options
from .averages import EMA, refreshed_batch_norm
from .no_decay import no_decay_groups
from .optimizers.adadelta import FusedAdadelta
from .optimizers.adagrad import FusedAdagrad
from .optimizers.adam import FusedAdam, FusedAdamW
from .optimizers.adamax import FusedAdamax
from .optimizers.lamb import FusedLAMB
from .optimizers.lars import FusedLARS
from .optimizers.lion import FusedLion
from .optimizers.nadam import FusedNAdam
from .optimizers.radam import FusedRAdam
from .optimizers.rmsprop import FusedRMSprop
from .optimizers.sgd import FusedSGD
from .training.growing_batch import GrowingBatchSampler
from .training.hessian_free import HessianFreeLR, hessian_free_lr
from .training.range_test import LRFindResult, lr_find
from .training.snapshots import SnapshotEnsemble

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
    "FusedLion",
    "FusedNAdam",
    "FusedRAdam",
    "FusedRMSprop",
    "FusedSGD",
    "GrowingBatchSampler",
    "HessianFreeLR",
    "LRFindResult",
    "Options",
    "SnapshotEnsemble",
    "hessian_free_lr",
    "lr_find",
    "no_decay_groups",
    "refreshed_batch_norm",
    "schedules",
]

_former_modules.keep(sys.modules[__name__])
_torch_versions.skip_package(__name__)
