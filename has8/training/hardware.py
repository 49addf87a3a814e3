"""What a model is trained on, as plain data; :mod:`has8.training.processes` starts it."""

from __future__ import annotations

from dataclasses import dataclass

from has8.errors import check_fields

ACCELERATORS = ("auto", "cpu", "cuda")
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed"}
"""Names of precisions, and Lightning Fabric's names for them."""


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
