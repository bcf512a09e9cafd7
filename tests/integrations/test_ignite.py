"""pytorch-ignite: its trainer and handlers around a fused optimizer, with a Schedule for the rate."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import ignite.engine as ignite
import ignite.handlers as handlers
import ignite.handlers.tensorboard_logger as tensorboard
import pytest
import torch
from framework_trainings import REPLACED, assert_close, copy_gradients, inputs_and_targets, network, replacements
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, StepLR
from warm_restarts import sgdr

from sgdr_fused import FusedAdamW
from sgdr_fused.schedules import CosineWarmRestarts
from sgdr_fused.training import InStepScheduler

pytestmark = pytest.mark.once

MAX_LR, T_0, BATCHES = 0.01, 3, 5
SCHEDULE = CosineWarmRestarts(MAX_LR, T_0=T_0, T_mult=2)  # restarts before steps 3 and 9
rate = sgdr(MAX_LR, T_0)
STARTED, COMPLETED = ignite.Events.ITERATION_STARTED, ignite.Events.ITERATION_COMPLETED
mse_loss = torch.nn.functional.mse_loss


def batches(dtype: torch.dtype = torch.float64, infinite: int | None = None) -> list[tuple[torch.Tensor, ...]]:
    inputs, targets = inputs_and_targets(BATCHES, dtype, infinite)
    return list(zip(inputs.split(4), targets.split(4), strict=True))


class Run:
    """A network, its optimizer, a trainer, and the rates that the optimizer shows after each iteration."""

    def __init__(self, make: Any = FusedAdamW, lr: Any = SCHEDULE, by_formula: bool = False, **options: Any) -> None:
        self.net = network()
        self.opt = make(self.net.parameters(), lr=lr)
        self.trainer = ignite.create_supervised_trainer(self.net, self.opt, mse_loss, **options)
        self.rates: list[float] = []
        if by_formula:
            self.trainer.add_event_handler(STARTED, self.write_rate)

    @property
    def taken(self) -> int:  # by torch's optimizer
        return max((int(state["step"]) for state in self.opt.state.values()), default=0)

    def write_rate(self) -> None:
        """What stands for the Schedule with torch's optimizer."""
        self.opt.param_groups[0]["lr"] = rate(self.taken)

    def note_rate(self) -> None:
        self.rates.append(float(self.opt.param_groups[0]["lr"]))

    def run(self, epochs: int, data: Any = None) -> None:
        if not self.trainer.has_event_handler(self.note_rate):
            self.trainer.add_event_handler(COMPLETED, self.note_rate)
        self.trainer.run(data or batches(), max_epochs=epochs)


theirs = partial(Run, torch.optim.AdamW, MAX_LR, by_formula=True)


def assert_alike(run: Run, other: Run) -> None:
    assert_close(run.net, other.net)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_fit(accumulated: int) -> None:
    """The Schedule counts optimizer steps, not iterations."""
    ours, other = (make(gradient_accumulation_steps=accumulated) for make in (Run, theirs))
    for run in (ours, other):
        run.run(4)
    assert other.taken == 4 * BATCHES // accumulated
    assert ours.rates == [SCHEDULE(t // accumulated) for t in range(1, 4 * BATCHES + 1)]
    assert_alike(ours, other)


# Those of torch inside ignite's handlers, named by their classes, and ignite's own.
TORCHS: dict[str, Any] = {
    "StepLR": lambda opt: handlers.LRScheduler(StepLR(opt, 2, 0.5)),
    "CosineAnnealingWarmRestarts": lambda opt: handlers.LRScheduler(CosineAnnealingWarmRestarts(opt, T_0, 2)),
    "ReduceLROnPlateau": lambda opt: handlers.ReduceLROnPlateauScheduler(opt, "loss", patience=1, factor=0.5),
}
IGNITES: dict[str, Any] = {
    "cosine": lambda opt: handlers.CosineAnnealingScheduler(opt, "lr", MAX_LR, 0.0, T_0, cycle_mult=2.0),
    "piecewise": lambda opt: handlers.PiecewiseLinear(opt, "lr", [(0, 0.0), (4, MAX_LR), (9, 0.001)]),
    "warmup": lambda opt: handlers.create_lr_scheduler_with_warmup(IGNITES["cosine"](opt), 0.0, 3),
}


@pytest.mark.parametrize("name", [*TORCHS, *IGNITES])
def test_number_with_a_scheduler(name: str) -> None:
    """As with torch's optimizer. Cosines with restarts are the formula's."""
    runs = Run(lr=MAX_LR), Run(torch.optim.AdamW, MAX_LR)
    late = name in ("CosineAnnealingWarmRestarts", "ReduceLROnPlateau")  # the first rate is that of the optimizer
    for run in runs:
        run.trainer.state.metrics["loss"] = 1.0  # a plateau
        run.trainer.add_event_handler(COMPLETED if late else STARTED, {**TORCHS, **IGNITES}[name](run.opt))
        run.run(2)
    assert runs[0].rates == runs[1].rates
    assert min(runs[0].rates) < MAX_LR
    assert_alike(*runs)
    if name in ("CosineAnnealingWarmRestarts", "cosine"):
        assert runs[0].rates == pytest.approx([rate(t + late) for t in range(2 * BATCHES)], rel=1e-12)


@pytest.mark.parametrize("name", IGNITES)
def test_ignites_scheduler_over_a_schedule(name: str) -> None:
    """It writes numbers: one warning names the remedies, and the numbers hold."""
    ours, other = Run(), Run(torch.optim.AdamW, MAX_LR)
    for run in (ours, other):
        run.trainer.add_event_handler(STARTED, IGNITES[name](run.opt))
    with pytest.warns(UserWarning, match=REPLACED) as caught:
        ours.run(2)
    other.run(2)
    assert len(caught) == 1
    assert ours.rates == other.rates
    assert_alike(ours, other)


@pytest.mark.parametrize("name", TORCHS)
def test_torchs_scheduler_over_a_schedule(name: str) -> None:
    """The first step is refused, and changes nothing. After the remedy, the Schedule assigned again, it rules."""
    ours = Run()
    TORCHS[name](ours.opt)
    with pytest.raises(RuntimeError, match=rf"{name} (.|\n)*group 0(.|\n)*assign the Schedule(.|\n)*InStepScheduler"):
        ours.run(1)
    assert all(map(torch.equal, ours.net.parameters(), network().parameters()))
    ours.opt.param_groups[0]["lr"] = SCHEDULE
    ours.trainer = ignite.create_supervised_trainer(ours.net, ours.opt, mse_loss)
    ours.run(2)
    assert ours.rates == [SCHEDULE(t) for t in range(1, 1 + 2 * BATCHES)]


def test_in_step_scheduler() -> None:
    """The scheduler that the errors name, inside ignite's handler: it leaves the rate to the Schedule."""
    ours, alone = Run(), Run()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.trainer.add_event_handler(STARTED, handlers.LRScheduler(InStepScheduler(ours.opt)))
        for run in (ours, alone):
            run.run(3)
    assert ours.rates == alone.rates == [SCHEDULE(t) for t in range(1, 1 + 3 * BATCHES)]
    assert all(map(torch.equal, ours.net.parameters(), alone.net.parameters()))


def test_resume_mid_cycle(tmp_path: Path) -> None:
    """ignite's Checkpoint of trainer, model and optimizer: the same bits and rates as without a stop."""
    ours, again = Run(), Run()
    with torch.no_grad():
        again.net[0].weight.zero_()
    parts = [{"trainer": run.trainer, "model": run.net, "optimizer": run.opt} for run in (ours, again)]
    saver = handlers.Checkpoint(parts[0], handlers.DiskSaver(str(tmp_path)))
    ours.trainer.add_event_handler(ignite.Events.EPOCH_COMPLETED(once=1), saver)
    ours.run(3)
    handlers.Checkpoint.load_objects(to_load=parts[1], checkpoint=str(tmp_path / saver.last_checkpoint))
    assert int(again.opt.clock) == BATCHES
    again.run(3)
    assert again.rates == ours.rates[BATCHES:] == [SCHEDULE(t) for t in range(1 + BATCHES, 1 + 3 * BATCHES)]
    assert all(map(torch.equal, again.net.parameters(), ours.net.parameters()))


def find(run: Run, step_mode: str, start_lr: float | None) -> tuple[dict[str, list[float]], Any]:
    """What the finder has recorded with a trainer of its own, and its suggestion."""
    finder = handlers.FastaiLRFinder()
    options = {"num_iter": 9, "step_mode": step_mode, "start_lr": start_lr, "end_lr": 1.0, "diverge_th": 1e9}
    made = ignite.create_supervised_trainer(run.net, run.opt, mse_loss)
    with finder.attach(made, {"model": run.net, "optimizer": run.opt}, **options) as trainer:
        trainer.run(batches(), max_epochs=2)
    return finder.get_results(), finder.lr_suggestion()


# ignite's own: no loss of the test is large enough to stop it.
@pytest.mark.filterwarnings("ignore:Run completed without loss diverging")
@pytest.mark.parametrize(
    ("step_mode", "lr"), [("exp", 1e-4), ("linear", 1e-4), ("exp", SCHEDULE), ("linear", SCHEDULE)]
)
def test_lr_finder_mid_cycle(step_mode: str, lr: Any) -> None:
    """Over a Schedule it warns. Afterwards Schedule or number, clock, weights and states are back, bit for bit."""
    ours, alone = Run(lr=lr), Run(lr=lr)
    other = theirs() if lr is SCHEDULE else Run(torch.optim.AdamW, lr)
    for run in (ours, alone, other):
        run.run(1)
    other.opt.param_groups[0]["lr"] = ours.rates[-1]  # ignite's first iteration is at this rate
    entries = set(ours.opt.param_groups[0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history, suggested = find(ours, step_mode, 1e-4)
    assert replacements(caught) == (lr is SCHEDULE)
    expected, _ = find(other, step_mode, 1e-4)
    assert history["lr"] == expected["lr"]
    assert history["loss"] == pytest.approx(expected["loss"], rel=1e-9)  # roundings, larger after steps at large rates
    assert {type(value) for values in history.values() for value in values} == {float}
    assert suggested in history["lr"] and set(ours.opt.param_groups[0]) == entries
    for run in (ours, alone):
        run.run(2)
    assert ours.rates == alone.rates
    assert all(map(torch.equal, ours.net.parameters(), alone.net.parameters()))
    assert int(ours.opt.clock) == 2 * BATCHES


def test_logging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ignite's handler of loggers gives a float at each iteration: the rate of its step, or of the next one."""
    logged: dict[str, list[Any]] = {"before": [], "after": []}
    ours = Run()
    with tensorboard.TensorboardLogger(log_dir=str(tmp_path)) as logger:
        monkeypatch.setattr(logger.writer, "add_scalar", lambda name, value, step: logged[name[:-11]].append(value))
        for tag, event in (("before", STARTED), ("after", COMPLETED)):
            logger.attach_opt_params_handler(ours.trainer, event_name=event, optimizer=ours.opt, tag=tag)
        ours.run(3)
    rates = [SCHEDULE(t) for t in range(3 * BATCHES + 1)]
    assert logged == {"before": rates[:-1], "after": rates[1:]}
    assert {type(value) for values in logged.values() for value in values} == {float}


@pytest.mark.parametrize("inside", [False, True], ids=["hook", "max_grad_norm"])
def test_clip(inside: bool) -> None:
    """torch's clipping before each step, and the same inside the step."""
    ours, other, norms = Run(partial(FusedAdamW, max_grad_norm=0.05) if inside else FusedAdamW), theirs(), []
    for run in (ours, other):
        if run is other or not inside:
            run.opt.register_step_pre_hook(
                lambda *_, net=run.net: norms.append(torch.nn.utils.clip_grad_norm_(net.parameters(), 0.05))
            )
        run.run(3)
    assert min(norms) > 0.05
    assert ours.rates == [SCHEDULE(t) for t in range(1, 1 + 3 * BATCHES)]
    assert_alike(ours, other)


# torch's own: ignite asks for the autocast of CUDA, which is off then.
@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize("accumulated", [1, 2])
def test_grad_scaler(accumulated: int) -> None:
    """ignite's trainer with a GradScaler. A step that overflows is skipped, and the Schedule waits for it."""
    scalers, counts = [torch.amp.GradScaler("cpu", growth_interval=3) for _ in range(2)], []
    options = {"amp_mode": "amp", "gradient_accumulation_steps": accumulated}
    ours, other = Run(scaler=scalers[0], **options), theirs(scaler=scalers[1], **options)
    other.trainer.add_event_handler(COMPLETED, lambda: counts.append(other.taken))
    for run in (ours, other):
        run.run(4, batches(infinite=2))
    assert other.taken == 4 * BATCHES // accumulated - 4
    assert ours.rates == [SCHEDULE(taken) for taken in counts]
    assert scalers[0].state_dict() == scalers[1].state_dict()
    assert_alike(ours, other)


def test_bfloat16_autocast() -> None:
    """torch's optimizer takes the same gradients: rounding to 16 bits would make small differences large."""
    dtypes = []

    def forward(net: Any, inputs: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = net(inputs)
        dtypes.append(outputs.dtype)
        return outputs.float()

    def step_both(*_: Any) -> None:
        other.write_rate()
        copy_gradients(ours.net, other.net)
        other.opt.step()

    ours, other = Run(model_fn=forward), theirs()
    for run in (ours, other):
        run.net.float()
    ours.opt.register_step_pre_hook(step_both)
    ours.run(2, batches(torch.float32))
    assert set(dtypes) == {torch.bfloat16}
    assert ours.rates == [SCHEDULE(t) for t in range(1, 1 + 2 * BATCHES)]
    assert_close(ours.net, other.net, rtol=1e-6, atol=1e-6)  # a few roundings of float32 a step
