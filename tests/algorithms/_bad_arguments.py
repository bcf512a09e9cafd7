"""Arguments that several constructors refuse: a label, the arguments, and the name and value that the error shows."""

from __future__ import annotations

import torch

from sgdr_fused.schedules import Triangular

from ._declaration import BadArgument

NAN, INF = float("nan"), float("inf")

# Arguments of every constructor.
WITHOUT_DIFFERENTIABLE: tuple[BadArgument, ...] = (
    ("lr_negative", {"lr": -0.25}, "lr", -0.25),
    ("lr_infinite", {"lr": INF}, "lr", "inf"),
    ("lr_nan", {"lr": NAN}, "lr", "nan"),
    ("lr_text", {"lr": "fast"}, "lr", "fast"),
    ("lr_none", {"lr": None}, "lr", None),
    ("lr_complex", {"lr": 1j}, "lr", "1j"),
    ("lr_tensor_negative", {"lr": torch.tensor(-0.25)}, "lr", -0.25),
    ("lr_tensor_nan", {"lr": torch.tensor(NAN)}, "lr", "nan"),
    ("lr_tensor_of_two", {"lr": torch.tensor([0.25, 0.5])}, "lr", ""),
    ("lr_tensor_empty", {"lr": torch.zeros(0)}, "lr", ""),
    ("lr_tensor_complex", {"lr": torch.tensor(1j)}, "lr", ""),
    ("weight_decay_negative", {"weight_decay": -0.25}, "weight_decay", -0.25),
    ("weight_decay_nan", {"weight_decay": NAN}, "weight_decay", "nan"),
    ("weight_decay_infinite", {"weight_decay": INF}, "weight_decay", "inf"),
)
# And of those that have torch's argument.
COMMON: tuple[BadArgument, ...] = (
    *WITHOUT_DIFFERENTIABLE,
    ("differentiable", {"differentiable": True}, "differentiable", True),
)
MOMENTUM: tuple[BadArgument, ...] = (
    ("momentum_negative", {"momentum": -0.25}, "momentum", -0.25),
    ("momentum_nan", {"momentum": NAN}, "momentum", "nan"),
    ("momentum_infinite", {"momentum": INF}, "momentum", "inf"),
)
OF_SGD: tuple[BadArgument, ...] = (
    *MOMENTUM,
    ("dampening_nan", {"momentum": 0.5, "dampening": NAN}, "dampening", "nan"),
    ("nesterov_with_dampening", {"nesterov": True, "momentum": 0.5, "dampening": 0.25}, "dampening", 0.25),
    ("momentum_form_unknown", {"momentum_form": "heavy"}, "momentum_form", "heavy"),
    ("momentum_form_true", {"momentum_form": True}, "momentum_form", True),
)
EPS: tuple[BadArgument, ...] = (("eps_negative", {"eps": -0.25}, "eps", -0.25),)
OF_ADAM: tuple[BadArgument, ...] = (
    ("beta1_one", {"betas": (1.0, 0.5)}, "betas", 1.0),
    ("beta1_negative", {"betas": (-0.25, 0.5)}, "betas", -0.25),
    ("beta2_one", {"betas": (0.5, 1.0)}, "betas", 1.0),
    ("beta2_above_one", {"betas": (0.5, 1.25)}, "betas", 1.25),
    ("beta1_nan", {"betas": (NAN, 0.5)}, "betas", "nan"),
    ("beta2_nan", {"betas": (0.5, NAN)}, "betas", "nan"),
    ("betas_three", {"betas": (0.5, 0.5, 0.5)}, "betas", 0.5),
    ("betas_one_number", {"betas": 0.5}, "betas", 0.5),
    ("betas_number_and_tensor", {"betas": (0.5, torch.tensor(0.5))}, "betas", ""),
    ("betas_tensor_of_two", {"betas": (torch.tensor([0.5, 0.5]), torch.tensor(0.5))}, "betas", ""),
    ("beta1_schedule_reaches_one", {"betas": (Triangular(0.5, 1.0, 2), 0.5)}, "betas", ""),
    *EPS,
    ("eps_nan", {"eps": NAN}, "eps", "nan"),
)
