"""How data become what a network takes; kept with its mapping, so that a simulation does the same.

No part of it guesses: what the network's input does not say, the user's options do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import torch
from torch import Tensor

from has8.data import Batch, Data, ImageDataset, event_names, load_data
from has8.errors import BadInput

PREPARATION = "preparation"
"""Under which a mapping's provenance holds a :class:`Preparation`."""
LUMINANCE = (0.299, 0.587, 0.114)
"""Of red, green and blue (ITU-R BT.601), as Pillow and torchvision weigh them."""

Given = Literal["values", "steps", "spikes"]


class Preparation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is done to images, or to recordings of events, before a network takes them.

    Args:
        inputs: what the network takes, see :func:`mapping.map_model`; None for spikes from events
            and for values from images.
        image_size: side in pixels; None keeps the data's own.
        channels: 1 makes grey of colours, 3 repeats grey; None keeps the data's own.
        mean: subtracted of each channel, in [0, 1]; one for all, or one each.
        std: by which it is then divided.
        flatten: whether the network takes vectors.
        steps: T, of events, or of images that are repeated for a network that takes steps.
        binning: of events, see :func:`has8.data.bin_events`.
        window_us: of events, the same.
        steps_axis: of a batch, the axis of the steps: 0 is in front of the samples.
    """

    inputs: Given | None = None
    image_size: int | None = None
    channels: Literal[1, 3] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    flatten: bool = False
    steps: int | None = None
    binning: Literal["time", "count"] = "time"
    window_us: int | None = None
    steps_axis: Annotated[int, msgspec.Meta(ge=0)] = 0

    def for_input(self, shape: tuple[int, ...], steps: int | None) -> Preparation:
        """The same, with what the input of a network says where the user says nothing."""
        square = len(shape) == 3 and shape[1] == shape[2]
        size = shape[1] if square and self.image_size is None else self.image_size
        return msgspec.structs.replace(
            self,
            image_size=size,
            flatten=self.flatten or len(shape) == 1,
            steps=self.steps if steps is None else steps,
        )

    def for_data(self, name: str) -> Preparation:
        """The same, with the inputs that such data are.

        Raises:
            BadInput: for options that do not belong together, or not to such data.
        """
        events = name in event_names()
        inputs = self.inputs or ("spikes" if events else "values")
        if events and inputs != "spikes":
            raise BadInput(
                f"{name} holds events, which are spikes, and the network takes {inputs}: choose "
                "other data with --data, or --inputs spikes"
            )
        if not events and inputs == "spikes":
            raise BadInput(
                f"{name} holds images, which are no spikes: let the network code them, or give "
                f"events with --data {' or '.join(event_names())}"
            )
        if inputs != "values" and self.steps is None:
            raise BadInput(f"--inputs {inputs} of {name} come in steps: say how many with --steps")
        if events and (self.channels or self.mean or self.std):
            raise BadInput("--channels, --mean and --std are for images, and these are spikes")
        if not events and (self.binning != "time" or self.window_us is not None):
            raise BadInput(f"--bin and --window-us are for events, and {name} holds images")
        if bool(self.mean) != bool(self.std):
            raise BadInput("--mean and --std belong together: give both, or neither")
        if not all(map(math.isfinite, self.mean)) or not all(0 < s < math.inf for s in self.std):
            raise BadInput("--mean must be finite numbers, and --std numbers above 0")
        return msgspec.structs.replace(self, inputs=inputs)

    def load(self, name: str, root: Path | None, preprocess: str) -> Data:
        """Data by name, prepared; ``input_shape`` is that in front of flattening.

        Raises:
            UnknownName, BadInput: as :func:`has8.data.load_data`; or if the options do not fit.
        """
        ready = self.for_data(name)
        if name in event_names():
            data = load_data(
                name,
                root,
                ready.image_size,
                steps=ready.steps,
                binning=ready.binning,
                window_us=ready.window_us,
            )
        else:
            data = load_data(name, root, ready.image_size, preprocess=preprocess)
        channels, *sides = data.input_shape
        made = ready.channels or channels
        if ready.channels and {channels, made} - {1, 3}:
            raise BadInput(f"{name} has {channels} channels, and --channels changes 1 or 3")
        for option, numbers in (("--mean", ready.mean), ("--std", ready.std)):
            if len(numbers) not in (0, 1, made):
                raise BadInput(f"{option} takes one number, or one for each of {made} channels")
        height, width = sides
        train, test = (Prepared(part, ready) for part in (data.train, data.test))
        steps = None if ready.inputs == "values" else ready.steps
        return replace(data, train=train, test=test, input_shape=(made, height, width), steps=steps)


def laid_out(data: Data, steps_axis: int) -> Data:
    """Prepared data with the steps on another axis of a batch."""

    def part(prepared: ImageDataset) -> Prepared:
        assert isinstance(prepared, Prepared)
        how = msgspec.structs.replace(prepared.how, steps_axis=steps_axis)
        return Prepared(prepared.source, how)

    return replace(data, train=part(data.train), test=part(data.test))


PLAIN = Preparation(inputs="values")
"""Images as they are."""


class Prepared(ImageDataset):
    """A data set whose batches are prepared as they are read.

    Args:
        source: images or spikes.
        how: for these data.
    """

    def __init__(self, source: ImageDataset, how: Preparation) -> None:
        self.source, self.how, self.flip = source, how, source.flip
        self.batch_axis = 0 if how.inputs == "values" or how.steps_axis else 1

    def __len__(self) -> int:
        return len(self.source)

    def read(self, chunks: Iterable[Tensor]) -> Iterator[Batch]:
        """See :meth:`has8.data.ImageDataset.read`."""
        for x, labels in self.source.read(chunks):
            yield self._prepared(x), labels

    def _prepared(self, x: Tensor) -> Tensor:
        how = self.how
        if how.channels == 1 and x.shape[1] == 3:
            x = (x * torch.tensor(LUMINANCE).view(3, 1, 1)).sum(1, keepdim=True)
        elif how.channels == 3 and x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if how.mean:
            mean, std = (torch.tensor(n).view(-1, 1, 1) for n in (how.mean, how.std))
            x = (x - mean) / std
        if how.flatten:
            x = x.flatten(-3)
        if how.inputs == "steps" and how.steps is not None:
            x = x.expand(how.steps, *x.shape)
        return x.movedim(0, how.steps_axis).contiguous()
