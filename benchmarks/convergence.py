"""Tests on real data whether SGD with warm restarts reaches a given error in fewer epochs than step decay.

    python benchmarks/convergence.py            what `make convergence` runs: writes docs/convergence.md and its picture
    python benchmarks/convergence.py --smoke    short, to see that all of it runs; writes nothing

It trains the same networks from the same weights under each schedule of convergence_runs.py, in two processes of one
thread each. First it chooses the peak rate of each schedule, on a part of the training images and with seeds for that
alone: the one of `rates` with the least mean error after the last epoch, and of equal ones the smallest. Then it trains
with that rate on all training images.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Sequence
from multiprocessing.pool import Pool
from statistics import mean
from typing import NamedTuple

import convergence_report
import torch
from convergence_report import Row
from convergence_runs import COMPARED, DATASETS, Errors, Task, run
from tqdm import tqdm


class Extent(NamedTuple):
    epochs: int
    rates: Sequence[float]
    tuning_seeds: dict[str, Sequence[int]]  # by data set
    seeds: Sequence[int]


# A seed holds out 200 of the digits and 600 of MNIST: about 2,000 images of each judge a rate.
FULL = Extent(30, (0.003, 0.01, 0.03, 0.1, 0.3), {"digits": range(100, 110), "MNIST": range(100, 103)}, range(10))
# With fewer epochs, step decay has stretches without an epoch in them.
SMOKE = Extent(10, (0.1,), {"digits": range(100, 101), "MNIST": range(100, 101)}, range(1))


def run_all(pool: Pool, tasks: Sequence[Task], title: str) -> list[dict[str, Errors]]:
    return list(tqdm(pool.imap(run, tasks), title, total=len(tasks), unit="training"))


def validation_errors(pool: Pool, extent: Extent) -> dict[tuple[str, str], dict[float, float]]:
    """The mean error after the last epoch over the seeds for tuning, by data set and schedule, then by rate."""
    cases = [
        (dataset, schedule, rate)
        for dataset in reversed(DATASETS)  # long ones first, so that the processes end together
        for schedule in COMPARED
        for rate in extent.rates
    ]
    tasks = [Task(*case, seed, True, extent.epochs) for case in cases for seed in extent.tuning_seeds[case[0]]]
    results = iter(run_all(pool, tasks, "choosing rates"))
    means: dict[tuple[str, str], dict[float, float]] = {}
    for dataset, schedule, rate in cases:
        last = [next(results)[schedule][-1] for _ in extent.tuning_seeds[dataset]]
        means.setdefault((dataset, schedule), {})[rate] = mean(error for error in last if error is not None)
    return means


def compare(pool: Pool, extent: Extent) -> list[Row]:
    validation = validation_errors(pool, extent)
    rates = {pair: min(errors, key=errors.__getitem__) for pair, errors in validation.items()}
    tasks = [Task(*pair, rate, seed, False, extent.epochs) for pair, rate in rates.items() for seed in extent.seeds]
    results = iter(run_all(pool, tasks, "comparing"))
    rows = []
    for (dataset, schedule), rate in rates.items():
        runs = [next(results) for _ in extent.seeds]
        for name in runs[0]:
            rows.append(
                Row(dataset, name, rate, [*validation[dataset, schedule].items()], [errors[name] for errors in runs])
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="short; writes nothing")
    smoke = parser.parse_args().smoke
    conditions = convergence_report.conditions()  # this also builds the extension, if need be, so that it is built once
    start = time.perf_counter()
    spawn = multiprocessing.get_context("spawn")  # after a fork, torch's threads may hang
    with spawn.Pool(2, torch.set_num_threads, (1,)) as pool:
        rows = compare(pool, SMOKE if smoke else FULL)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    conditions += (
        f" It took {(time.perf_counter() - start) / 60:.1f} minutes, in which the two processes had the cores for "
        f"{(used.ru_utime + used.ru_stime) / 60:.1f} minutes together."
    )
    if smoke:
        print(convergence_report.table(rows), conditions, sep="\n\n")
    else:
        convergence_report.keep(rows, conditions)
        convergence_report.write()


if __name__ == "__main__":
    main()
