"""The device and the processes that a training command runs on."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Collection
from pathlib import Path

import torch
from accelerate import Accelerator


def make_accelerator(device: str | None) -> Accelerator:
    """device: "cpu", "cuda", or None for CUDA where there is one. SystemExit when there is no CUDA device to use."""
    use_cpu = device == "cpu" or not torch.cuda.is_available()
    if device == "cuda" and use_cpu:
        raise SystemExit("--device cuda: torch finds no CUDA device")
    if not use_cpu:
        torch.set_float32_matmul_precision("high")  # TF32
    threads = torch.get_num_threads()
    accelerator = Accelerator(cpu=use_cpu, mixed_precision="no")  # the trainer sets autocast itself
    if accelerator.num_processes == 1:
        torch.set_num_threads(threads)  # accelerate lowers it to the number of physical cores
    return accelerator


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "auto" -> "bf16" where the hardware multiplies bfloat16, else "no"; other values stay."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if fast else "no"


def run_as_process(main: Callable[[], object]) -> None:
    """Runs a training command, then leaves the group of its processes, if there is one.

    Gloo's threads free their last tensors a little later. If Python ends in the meantime, the process aborts. The
    destructor of the group waits for these threads, so nothing may hold on to the group. All processes leave together,
    after a SystemExit too. After another error a process leaves alone, since the others may not have met it.
    """
    leaving = None
    try:
        main()
    except SystemExit as error:
        leaving = error.with_traceback(None)  # its frames hold the run
        leaving.__context__ = leaving.__cause__ = None
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()  # data-parallel wrappers hold the group and lie in reference cycles
        torch.distributed.destroy_process_group()
    if leaving:
        raise leaving


def warn_of_size(accelerator: Accelerator, preset: str, presets: Collection[str]) -> None:
    """Says on a CPU that a preset is sized for a GPU."""
    smaller = preset.removesuffix("/gpu") + "/cpu"
    if accelerator.device.type == "cpu" and preset.endswith("/gpu") and accelerator.is_main_process:
        instead = f"; {smaller} is sized for it" if smaller in presets else ""
        print(f"{preset} is sized for a GPU, and this run uses the CPU{instead}", file=sys.stderr)


def say_what_next(accelerator: Accelerator, out: Path, command: str) -> None:
    if accelerator.is_main_process:
        print(f"saved to {out}" + (f"; now run {command}" if command else ""), file=sys.stderr)
