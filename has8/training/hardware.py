"""What a model is trained on, as plain data; :mod:`has8.training.processes` starts it."""

from __future__ import annotations

from dataclasses import dataclass

from has8.values import Rules, check_fields

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
        BadInput: for a value of another type or out of range.
    """

    accelerator: str = "auto"
    devices: int | None = None
    num_nodes: int | None = None
    precision: str = "32"
    compile: bool = False

    def __post_init__(self) -> None:
        rules: Rules = {
            "accelerator": (lambda name: name in ACCELERATORS, f"one of {', '.join(ACCELERATORS)}"),
            "devices": (lambda n: n >= 1, "a whole number of at least 1, or None"),
            "num_nodes": (lambda n: n >= 1, "a whole number of at least 1, or None"),
            "precision": (lambda name: name in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
            "compile": (lambda _: True, "True or False"),
        }
        check_fields(self, rules)
