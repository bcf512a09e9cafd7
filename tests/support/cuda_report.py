"""Writes the tables of docs/cuda.md: what nvcc makes of the kernels, what a step moves and launches.

    PYTHONPATH=.:tests:tests/support SGDR_FUSED_TEST_DEVICE=cuda \\
        GPU_RUNNER .venv/bin/python tests/support/cuda_report.py

GPU_RUNNER is the command that runs a program on the pretend GPU. Without it, what needs its counters is "not counted".
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from cases import ADAM, PRETEND
from compiled_code import Kernel, read_kernels
from traffic import TRAFFIC

from sgdr_fused._native import toolchain

if PRETEND:
    import pretend_gpu

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cuda.md"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def compiled(kernels: list[Kernel]) -> str:
    """A row per kernel and architecture; the two sizes of arguments share one."""
    alike: dict[tuple[str, str], list[Kernel]] = {}
    for kernel in kernels:
        storage = kernel.param if kernel.param == kernel.state else f"{kernel.param}, states {kernel.state}"
        names = {
            "step": f"{kernel.algorithm}, {storage}",
            "measure_grads": f"norm of the gradients, {kernel.param}",
            "measure_params": f"{kernel.algorithm}'s norms, {storage}",
        }
        name = names.get(kernel.kind, "show (the displayed rates)")
        alike.setdefault((name, kernel.architecture), []).append(kernel)
    rows = []
    for (name, architecture), group in sorted(alike.items()):
        loops = sorted({(loop["LDG.128"], loop["STG.128"]) for kernel in group for loop in kernel.steady_loops})
        rows.append(
            (
                name,
                architecture,
                max(kernel.registers for kernel in group),
                max(kernel.local_bytes for kernel in group),
                f"{min(kernel.occupancy for kernel in group):.1%}",
                ", ".join(f"{loads} + {stores}" for loads, stores in loops) or "none",
            )
        )
    head = ("kernel", "for", "registers", "bytes of local memory", "occupancy", "128-bit accesses")
    return table(head, rows)


def traffic() -> str:
    return table(
        ("algorithm", "parameter", "gradient", "states", "least", "counted", "and per block"),
        (
            (
                f"{t.case.id}, {t.option.name}" if t.option.name else t.case.id,
                str(t.param).removeprefix("torch."),
                str(t.grad).removeprefix("torch."),
                str(t.state).removeprefix("torch.") if t.states else "none",
                t.least,
                *((f"{number:.4g}" for number in t.counted()) if PRETEND else ("not counted",) * 2),
            )
            for t in TRAFFIC
        ),
    )


def launches(tensors: int, **options: object) -> str:
    """The launches of a steady step of Adam, over that many tensors."""
    if not PRETEND:
        return "not counted"
    params = [torch.nn.Parameter(torch.ones(8, device="cuda")) for _ in range(tensors)]
    for param in params:
        param.grad = torch.ones_like(param)
    opt = ADAM.fused(params, lr=0.1, **options)
    opt.step()
    pretend_gpu.reset()
    opt.step()
    return str(pretend_gpu.launches())


def nvcc_version() -> str:
    nvcc = Path(str(toolchain.cuda_home()), "bin", "nvcc")
    report = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"release .*?V([\d.]+)", report)
    return match[1] if match else "unknown"


def put(page: str, name: str, text: str) -> str:
    """The page with `text` between <!-- name --> and <!-- end -->."""
    changed, places = re.subn(f"(<!-- {name} -->\n).*?(<!-- end -->)", rf"\g<1>{text}\n\g<2>", page, flags=re.DOTALL)
    assert places == 1, name
    return changed


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        code = read_kernels(Path(folder))
    # Computed from the constants in their sources.
    peers = (
        ("torch, CUDA 13 build", "1 + 1", "46 + 1"),
        ("torch, CUDA 12 build", "5 + 2", "322 + 3"),
        ("apex, DeepSpeed, TransformerEngine", "5", "322"),
        ("bitsandbytes, torchao, FlashOptim", ">= 161", ">= 291"),
    )
    head = ("", "ResNet-50, Adam (161 tensors)", "Llama-7B, Adam (291 tensors)")
    page = PAGE.read_text()
    page = put(page, "compiled", f"By nvcc {nvcc_version()}:\n\n{compiled(code)}")
    page = put(page, "traffic", traffic())
    ours = [
        (f"sgdr_fused{what}, counted", *(launches(tensors, **options) for tensors in (161, 291)))
        for what, options in (("", {}), (" with max_grad_norm", {"max_grad_norm": 1.0}))
    ]
    page = put(page, "launches", table(head, [*ours, *peers]))
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
