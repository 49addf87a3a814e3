"""Options of quantisation, for the commands that map and that fine-tune."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from torch import nn

from has8.data import Data
from has8.errors import BadInput
from mapping.finetune import Quantization, prepare
from mapping.integers.scales import METHODS, Method

CALIBRATION = 256
"""Training images that stand for the data: for encoders' ranges, and to search for scales on."""
DEFAULT_BITS = 8

Command = TypeVar("Command", bound=Callable[..., Any])


def quantization_options(default: str) -> Callable[[Command], Command]:
    """``--weight-bits``, ``--scales`` and ``--per-channel``; each is None or false if not given.

    Args:
        default: what ``--scales`` is then, in words.
    """

    def added(command: Command) -> Command:
        for option in (
            click.option(
                "--per-channel",
                is_flag=True,
                help="Search for a threshold for each channel, as far as a core has them.",
            ),
            click.option(
                "--scales",
                type=click.Choice(METHODS),
                help="How floats become integers: round clips nothing; search takes what changes "
                f"the fewest spikes on {CALIBRATION} training images.  [default: {default}]",
            ),
            click.option(
                "--weight-bits",
                type=int,
                help=f"Bits of a weight, 1 to {DEFAULT_BITS}.  [default: {DEFAULT_BITS}]",
            ),
        ):
            command = option(command)
        return command

    return added


@dataclass(frozen=True, slots=True)
class Quantize:
    """What ``has8 train`` was told about fine-tuning.

    Args:
        target: for which, a name or a file; None for no fine-tuning.
        weight_bits, scales, per_channel: as given.
    """

    target: str | None
    weight_bits: int | None
    scales: Method | None
    per_channel: bool

    def check(self, start: Path | None) -> None:
        """Refuse options that mean nothing together.

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
            weight_bits=DEFAULT_BITS if self.weight_bits is None else self.weight_bits,
            scales=self.scales or "search",
            per_channel=self.per_channel,
        )
