"""`bench`: what is timed, in which order, and the table. Nothing here fails for being slow."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from sgdr_fused._cli import bench, main, timing

pytestmark = pytest.mark.once


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models and few rounds."""
    monkeypatch.setattr(timing, "MODELS", {"two layers": [(4, 3), (4,)], "one": [(5,)]})
    monkeypatch.setattr(timing, "MAX_ROUNDS", 7)


@pytest.mark.usefixtures("small")
def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--seconds", "0.5"]) == 0
    table, conditions = capsys.readouterr().out.rstrip().split("\n\n")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    titles = ["", "tensors", "parameters", "torch for-loop", "torch foreach", "torch fused", "sgdr_fused", "ratio"]
    assert lines[0] == titles
    assert len({len(line) for line in table.splitlines()}) == 1
    assert [line[0] for line in lines[2:]] == ["SGD, two layers", "SGD, one", "Adam, two layers", "Adam, one"]
    assert [line[1:3] for line in lines[2:]] == [["2", "16"], ["1", "5"]] * 2
    for line in lines[2:]:
        for cell in line[3:7]:
            assert re.fullmatch(r"\d+(\.\d+)? (us|ms|s)|-", cell)
        assert float(line[7]) > 0
    assert f"torch {torch.__version__}" in conditions
    assert f"{torch.get_num_threads()} threads" in conditions
    assert "sgdr_fused computes by the backend cpu." in conditions


@pytest.mark.usefixtures("small")
def test_all_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round has each once, each is first equally often, and each time belongs to a step that was taken."""
    order: list[str] = []
    params = [torch.nn.Parameter(torch.zeros(3))]
    addresses = []

    def step(name: str) -> Any:
        def take() -> None:
            order.append(name)
            addresses.append(params[0].grad.data_ptr())

        return take

    names = ["a", "b", "c"]
    times = timing._race({name: step(name) for name in names}, params, [torch.ones(3)], end=0.0)
    rounds = len(order) // 3
    assert rounds == timing.WARMUP + timing.MIN_ROUNDS
    assert all(sorted(order[3 * i : 3 * i + 3]) == names for i in range(rounds))
    firsts = [order[3 * i] for i in range(rounds)]
    assert max(map(firsts.count, names)) - min(map(firsts.count, names)) <= 1
    assert {len(times[name]) for name in names} == {timing.MIN_ROUNDS}
    assert all(a != b for a, b in zip(addresses, addresses[1:], strict=False))  # gradients move, as after zero_grad()


@pytest.mark.usefixtures("small")
def test_medians_and_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of times that are known."""
    seconds = {
        "for-loop": [9.0, 8.0, 7.0],
        "foreach": [4.0, 6.0, 2.0],
        "fused": [5.0, 5.0, 50.0],
        "sgdr_fused": [1.0, 3.0, 2.0],
    }
    monkeypatch.setattr(timing, "_race", lambda steps, *rest: {name: seconds[name] for name in steps})
    row = timing.measure("SGD", "one", torch.device("cpu"), 1.0)
    assert row.seconds == {"for-loop": 8.0, "foreach": 4.0, "fused": 5.0, "sgdr_fused": 2.0}
    assert (row.best, row.ratio) == ("foreach", 2.0)  # the median of 4, 2 and 1
    monkeypatch.setitem(timing.FORMS, "fused", {"fused": True, "differentiable": True})  # which torch refuses
    row = timing.measure("SGD", "one", torch.device("cpu"), 1.0)
    assert row.seconds["fused"] is None
    assert "|           - |" in bench.table([row])


@pytest.mark.usefixtures("small")
def test_ours_and_theirs_do_the_same() -> None:
    """One round of steps from the same parameters, by each implementation, leads to the same ones."""
    results = {}
    for name in (*timing.FORMS, timing.OURS):
        torch.manual_seed(1)
        params = [torch.nn.Parameter(torch.randn(5)) for _ in range(2)]
        timing._renew(params, [torch.randn(5) for _ in params])
        job = timing.JOBS["Adam"]
        if name == timing.OURS:
            step = job.ours(params, lr=timing.CosineWarmRestarts(timing.RATE, **timing.RESTARTS)).step
            step()
        else:
            step = timing._of_torch(job, params, timing.FORMS[name])  # which has taken a step
        if step is not None:
            step()
            results[name] = torch.cat([param.detach() for param in params])
    assert timing.OURS in results and len(results) > 1
    for result in results.values():
        torch.testing.assert_close(result, results[timing.OURS], rtol=1e-5, atol=1e-6)  # float32; a step moves by 1e-3


def test_durations() -> None:
    assert [bench._duration(s) for s in (1.234e-6, 9.99e-4, 1.5e-3, 0.25, 2.0, 5000.0)] == [
        "1.23 us",
        "999 us",
        "1.50 ms",
        "250 ms",
        "2.00 s",
        "5.00e+03 s",
    ]


@pytest.mark.parametrize("seconds", ["0", "-1", "60.5", "nan", "inf"])
def test_seconds(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", f"--seconds={seconds}"]) == 2
    assert "error: --seconds must be in (0, 60], got" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "--seconds", "many"])
