"""What a user of the package writes: test_typing.py runs type checkers on it, and runs it."""

import torch
from torch import Tensor, nn

import sgdr_fused
from sgdr_fused import EMA, FusedAdam, FusedAdamW, FusedSGD, LRFindResult, Options, lr_find
from sgdr_fused.schedules import CosineWarmRestarts, OneCycle, Schedule, Sequential, Warmup

model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
loader: list[tuple[Tensor, Tensor]] = [(torch.randn(3, 4), torch.randint(2, (3,))) for _ in range(20)]
schedule = CosineWarmRestarts(0.1, T_0=5, T_mult=2, eta_min=1e-4)
doubled: Schedule = 2 * schedule
warm: Schedule = Warmup(0.5 * schedule * schedule, steps=3)
values: Tensor = Sequential([(schedule, 10), warm]).values(20)
rate: float = schedule(3)
index, position, length = schedule.cycle(7)

options: Options = {"max_grad_norm": 1.0, "skip_nonfinite": True, "average": EMA(0.99)}
optimizer = FusedSGD(model.parameters(), lr=schedule, momentum=0.9, nesterov=True, weight_decay=5e-4, **options)
result: LRFindResult = lr_find(model, optimizer, nn.functional.cross_entropy, loader, num_steps=10)
handle = optimizer.register_cycle_end_hook(lambda opt, cycle: print("cycle", cycle, int(opt.clock)))
inputs, targets = loader[0]
loss: Tensor = nn.functional.cross_entropy(model(inputs), targets)
for _ in range(20):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(inputs), targets)
    torch.autograd.backward(loss)
    optimizer.step()
rates: list[float] = optimizer.get_last_lr()
with optimizer.swap_average():
    predictions: Tensor = model(inputs)
optimizer.load_state_dict(optimizer.state_dict())
optimizer.param_groups[0]["lr"] = doubled
steps, norm, skipped, backend = (
    int(optimizer.clock),
    optimizer.grad_norm.item(),
    optimizer.skipped_steps.item(),
    optimizer.backend,
)
optimizer.clock.fill_(0)
handle.remove()

lr, momentum = OneCycle(0.1, total_steps=100)
adam = FusedAdam(
    [{"params": [p for p in model.parameters() if p.dim() > 1], "lr": 2 * schedule}], lr=lr, betas=(momentum, 0.999)
)
decoupled = FusedAdamW(model.named_parameters(), lr=torch.tensor(1e-3), weight_decay=schedule, state_dtype=None)
everything: list[torch.optim.Optimizer] = [optimizer, adam, decoupled]
scaler = torch.amp.GradScaler("cpu")
scaler.scale(loss.detach())
scaler.step(decoupled)
print(sgdr_fused.__version__, rate, rates, values, predictions, steps, norm, skipped, backend)
