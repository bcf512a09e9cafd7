"""Lightning's averaging of the weights over our optimizers, and what they do at the end of a cycle in its Trainer."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from framework_trainings import REPLACED, network, replacements
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning_trainings import EXACT, FORMS, MARKS, Module, assert_same, fitted, near, ours, rate, theirs
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from sgdr_fused import FusedSGD, SnapshotEnsemble
from sgdr_fused.schedules import CosineWarmRestarts

# Lightning's own: a scheduler stood where StochasticWeightAveraging puts its own.
pytestmark = [*MARKS, pytest.mark.filterwarnings("ignore:SWA is currently only supported")]


def averaging(strategy: str = "cos") -> StochasticWeightAveraging:
    """From the third epoch on: the weights are averaged, and the rate goes to 0.05 in three epochs."""
    return StochasticWeightAveraging(0.05, swa_epoch_start=3, annealing_epochs=3, annealing_strategy=strategy)


@FORMS
@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_stochastic_weight_averaging(form: Any, strategy: str) -> None:
    """The number that the Schedule shows at that moment takes its place."""
    module, like = ours(form), theirs()
    with pytest.warns(UserWarning, match=REPLACED) as warned:
        course = fitted(module, averaging(strategy), epochs=6)
    assert replacements(warned) == 1
    assert_same(course, fitted(like, averaging(strategy), epochs=6))
    assert course.rates[:9] == [near([rate(step)]) for step in range(9)]
    assert course.rates[-1] == near([0.05])
    torch.testing.assert_close([*module.parameters()], [*like.parameters()], rtol=EXACT, atol=EXACT)  # the averages


class Saver(Callback):
    def __init__(self, path: Path, epoch: int) -> None:
        self.path, self.epoch = path, epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)


BEFORE_AND_WITHIN = [(1, REPLACED), (3, r"group 0: the checkpoint's lr.*CosineWarmRestarts")]


@FORMS
@pytest.mark.parametrize(("epoch", "message"), BEFORE_AND_WITHIN, ids=["before", "within"])
def test_resume_stochastic_weight_averaging(form: Any, epoch: int, message: str, tmp_path: Path) -> None:
    """From a checkpoint of before the averaging, or from within it, to where the training would have come."""
    whole, resumed = ours(form), ours(form)
    with pytest.warns(UserWarning, match=REPLACED):
        expected = fitted(whole, averaging(), Saver(tmp_path / "ours", epoch), epochs=6)
    with pytest.warns(UserWarning, match=message):
        course = fitted(resumed, averaging(), resumed=tmp_path / "ours", epochs=6)
    assert course.rates == expected.rates[4 * (epoch + 1) :]
    assert all(map(torch.equal, resumed.parameters(), whole.parameters()))
    fitted(theirs(), averaging(), Saver(tmp_path / "theirs", epoch), epochs=6)
    assert_same(course, fitted(theirs(), averaging(), resumed=tmp_path / "theirs", epochs=6))


class AtCycleEnds(Module):
    """It validates with the mean of the weights just before each restart, and keeps snapshots of these."""

    def __init__(self, folder: Path) -> None:
        super().__init__(partial(FusedSGD, lr=CosineWarmRestarts(0.1, T_0=3), momentum=0.9, average="cycle"))
        self.folder = folder
        self.ended: list[tuple[int, int]] = []
        self.validated: list[list[Tensor]] = []

    def configure_optimizers(self) -> Any:
        self.optimizer = super().configure_optimizers()
        self.optimizer.register_cycle_end_hook(lambda each, index: self.ended.append((index, int(each.clock))))
        self.ensemble = SnapshotEnsemble(self.network, self.optimizer, self.folder)
        return self.optimizer

    def on_validation_epoch_start(self) -> None:
        # Lightning first validates once to see that it works. No cycle has ended then.
        self.averages = self.optimizer.swap_average() if int(self.optimizer.n_averaged) else nullcontext()
        self.averages.__enter__()

    def validation_step(self, batch: Any, index: int) -> None:
        self.validated.append([param.detach().clone() for param in self.parameters()])

    def on_validation_epoch_end(self) -> None:
        self.averages.__exit__(None, None, None)


def test_end_of_a_cycle(tmp_path: Path) -> None:
    module, model, inputs = AtCycleEnds(tmp_path), network(), torch.ones(5, 4, dtype=torch.float64)
    course = fitted(module, data=DataLoader(TensorDataset(torch.zeros(1))))
    assert module.ended == [(0, 3), (1, 6), (2, 9), (3, 12)]
    ends = [course.weights[step - 1] for _, step in module.ended]
    first, *validated = module.validated
    assert all(map(torch.equal, first, model.parameters()))
    # One, two and four cycles have ended after 4, 8 and 12 steps. The means are added up in another order.
    for weights, count in zip(validated, (1, 2, 4), strict=True):
        means = [torch.stack(each).mean(0) for each in zip(*ends[:count], strict=True)]
        torch.testing.assert_close(weights, means, rtol=EXACT, atol=EXACT)
    with module.optimizer.swap_average():
        assert all(map(torch.equal, module.parameters(), validated[-1]))
    # Neither hooks nor averages change the training.
    plain = Module(partial(FusedSGD, lr=CosineWarmRestarts(0.1, T_0=3), momentum=0.9))
    assert_same(course, fitted(plain), 0.0)
    predicted = []
    for weights in ends:
        model.load_state_dict(dict(zip(model.state_dict(), weights, strict=True)))
        predicted.append(model(inputs).softmax(1).detach())
    torch.testing.assert_close(module.ensemble.predict(inputs), sum(predicted) / 4, rtol=EXACT, atol=EXACT)
