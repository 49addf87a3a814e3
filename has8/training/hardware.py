"""What a model is trained on, and how to be told to stop there.

Lightning Fabric does the work: devices, processes, precision. It is imported when it is first
needed, because that takes longer than importing PyTorch.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import distributed

from has8.errors import BadInput, check_fields

if TYPE_CHECKING:
    from lightning_fabric import Fabric

ACCELERATORS = ("auto", "cpu", "cuda")
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed"}
"""Names of precisions, and Fabric's names for them."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """Where to compute, and in which precision.

    Args:
        accelerator: "cpu", "cuda", or "auto": CUDA where there is any.
        devices: processes a node, each with its own GPU (or a share of the CPU). None takes what
            torchrun or Slurm started, and 1 without them. More than 1 without them starts the
            running command again, once for each further device.
        num_nodes: machines; None takes what torchrun or Slurm started, and 1 without them.
        precision: "32", or "bf16": bfloat16 where PyTorch's autocast holds it safe; weights,
            optimiser and loss stay float32.
        compile: whether to train through :func:`torch.compile`.

    Raises:
        BadInput: for a value out of range.
    """

    accelerator: str = "auto"
    devices: int | None = None
    num_nodes: int | None = None
    precision: str = "32"
    compile: bool = False

    def __post_init__(self) -> None:
        rules = {
            "accelerator": (self.accelerator in ACCELERATORS, f"one of {', '.join(ACCELERATORS)}"),
            "devices": (self.devices is None or self.devices >= 1, "at least 1"),
            "num_nodes": (self.num_nodes is None or self.num_nodes >= 1, "at least 1"),
            "precision": (self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
        }
        check_fields(self, rules)


def launch(hardware: Hardware) -> Fabric:
    """Start or join the processes; afterwards each knows its rank, its device and its precision.

    Raises:
        BadInput: if there is no such hardware, or it is not what torchrun or Slurm started.
    """
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # no chatter on stderr
    accelerator = hardware.accelerator
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    started = _started()
    devices, nodes = hardware.devices or started[0], hardware.num_nodes or started[1]
    alone = devices * nodes == 1 == started[0] * started[1]
    try:
        fabric = Fabric(
            accelerator=accelerator,
            strategy="auto" if alone else "ddp",
            devices=devices,
            num_nodes=nodes,
            precision=PRECISIONS[hardware.precision],  # type: ignore[arg-type]
        )
        fabric.launch()
    except (ValueError, RuntimeError) as error:
        raise BadInput(
            f"cannot compute on {nodes} x {devices} x {accelerator} "
            f"({str(error).strip().splitlines()[0]}): choose other --accelerator, --devices or "
            "--num-nodes"
        ) from error
    return fabric


def _started() -> tuple[int, int]:
    """(processes a node, nodes) that torchrun or Slurm's srun started; (1, 1) without them."""
    given = os.environ
    if distributed.is_available() and distributed.is_torchelastic_launched():
        local = int(given["LOCAL_WORLD_SIZE"])
        return local, int(given["WORLD_SIZE"]) // local
    if "SLURM_NTASKS" in given and given.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        nodes = int(given.get("SLURM_NNODES", 1))
        return int(given["SLURM_NTASKS"]) // nodes, nodes
    return 1, 1


@contextmanager
def first_process_first(hardware: Hardware) -> Iterator[None]:
    """What is inside runs on each node's first process, then on the others (downloads)."""
    started = _started()
    several = (hardware.devices or started[0]) * (hardware.num_nodes or started[1]) > 1
    if several:
        with launch(hardware).rank_zero_first(local=True):
            yield
    else:
        yield


def is_first_process() -> bool:
    """Whether this process is the one that writes and reports."""
    several = distributed.is_available() and distributed.is_initialized()
    return not several or distributed.get_rank() == 0


@contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """Hold back the first SIGTERM or SIGINT; what is yielded tells its number, or 0.

    A second one acts at once, as it would have before. Outside the main thread, where Python
    allows no handlers, nothing is held back. A signal that the caller did not act on (by an
    exception) is sent again at the end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    caught = 0
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def note(number: int, _: object) -> None:
        nonlocal caught
        caught = number
        restore()

    try:
        for number in previous:
            signal.signal(number, note)
        yield lambda: caught
    finally:
        restore()
    if caught:
        signal.raise_signal(caught)
