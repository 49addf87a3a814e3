"""Fine-tuning for a chip, as ``has8 train`` was told to do it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from has8.cli.options import CALIBRATION
from has8.data import Data
from has8.errors import BadInput
from mapping.finetune import Quantization, prepare
from mapping.integers.methods import Method


@dataclass(frozen=True, slots=True)
class Quantize:
    """What ``has8 train`` was told about fine-tuning.

    Args:
        target: the chip, by name or by file; None for no fine-tuning.
        weight_bits: bits of a weight; None if the user did not say.
        scales: how to choose scales; None if the user did not say.
        per_channel: whether channels may get thresholds of their own.
    """

    target: str | None
    weight_bits: int | None
    scales: Method | None
    per_channel: bool

    def check(self, start: Path | None) -> None:
        """Refuse options that mean nothing together.

        Args:
            start: the file of the model to fine-tune, if the user named one.

        Raises:
            BadInput: if something is said about quantisation but no target or no model is given.
        """
        if self.target is not None and start is None:
            raise BadInput("--quantize fine-tunes a trained model: name its file with --from")
        said = self.weight_bits is not None or self.scales is not None or self.per_channel
        if self.target is None and said:
            raise BadInput(
                "--weight-bits, --scales and --per-channel say how to --quantize: name a target"
            )

    def prepare(self, network: nn.Module, source: Data) -> Quantization:
        """Make a model run as the target would, in place."""
        assert self.target is not None
        return prepare(
            network,
            self.target,
            calibration=source.train.tensors(CALIBRATION)[0],
            weight_bits=self.weight_bits,
            scales=self.scales or "search",
            per_channel=self.per_channel,
        )
