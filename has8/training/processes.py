"""The processes of a run: how they start, and which of them is the first.

Lightning Fabric does the work: devices, processes, precision. It is imported when it is first
needed, because that takes longer than importing PyTorch.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import distributed

from has8.errors import BadInput
from has8.training.hardware import PRECISIONS, Hardware

if TYPE_CHECKING:
    from lightning_fabric import Fabric


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


@contextmanager
def first_process_first(hardware: Hardware) -> Iterator[None]:
    """Run the body on each node's first process, then on the others: the first one downloads."""
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


def _started() -> tuple[int, int]:
    """(processes a node, nodes) that torchrun or Slurm's srun started; (1, 1) without them."""
    environment = os.environ
    if distributed.is_available() and distributed.is_torchelastic_launched():
        local = int(environment["LOCAL_WORLD_SIZE"])
        return local, int(environment["WORLD_SIZE"]) // local
    interactive = environment.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if "SLURM_NTASKS" in environment and not interactive:
        nodes = int(environment.get("SLURM_NNODES", 1))
        return int(environment["SLURM_NTASKS"]) // nodes, nodes
    return 1, 1
