"""Models by name: each file here registers plain functions with ``@MODELS.register``."""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

from torch import nn

from has8.errors import BadInput
from has8.models import colanet as _colanet  # these register what they hold
from has8.models import has8_resnet as _has8_resnet
from has8.models import has8_vgg as _has8_vgg
from has8.models import hnn as _hnn
from has8.models import resnet as _resnet
from has8.models import sew_resnet as _sew_resnet
from has8.models.registry import MODELS
from has8.values import value

__all__ = ["MODELS", "create_model", "model_names", "model_options"]

_FILES = (_colanet, _has8_resnet, _has8_vgg, _hnn, _resnet, _sew_resnet)


def create_model(name: str, *, num_classes: int, in_channels: int = 3, **options: Any) -> nn.Module:
    """A new model with random weights.

    Args:
        name: one of :func:`model_names`.
        num_classes: outputs, at least 2.
        in_channels: channels of the image, at least 1.
        options: options of the model's family; see its function, such as
            :func:`has8.models.has8_resnet.has8_resnet`. Named variants fix one of them, the
            ``base`` of HAS-8's models and the ``depth`` of the others.

    Returns:
        The model. Its ``config`` is a JSON-able dictionary with which
        ``create_model(**model.config)`` builds the same model again.

    Raises:
        UnknownName: for an unknown model; the message names the nearest.
        BadInput: for an unknown option or one out of range.
    """
    builder = MODELS.get(name)
    num_classes = value(num_classes, int, "num_classes")
    in_channels = value(in_channels, int, "in_channels")
    if num_classes < 2 or in_channels < 1:
        raise BadInput(
            f"a model needs at least 2 classes and 1 input channel, "
            f"not num_classes={num_classes}, in_channels={in_channels}"
        )
    known = model_options(name)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise BadInput(
            f"model {name!r} has no option {unknown[0]!r}; its options are {', '.join(known)}"
        )
    hints = get_type_hints(getattr(builder, "family", builder))
    options = {
        key: value(option, hints[key], f"option {key!r} of {name}")
        for key, option in options.items()
    }
    model = builder(num_classes=num_classes, in_channels=in_channels, **options)
    model.config = {  # type: ignore[assignment]
        "name": name,
        "num_classes": num_classes,
        "in_channels": in_channels,
        **options,
    }
    return model


def model_options(name: str) -> list[str]:
    """Keyword options of a model beside classes and channels; a variant lacks those it fixes.

    Raises:
        UnknownName: for an unknown model.
    """
    builder = MODELS.get(name)
    family = getattr(builder, "family", builder)
    fixed = {"num_classes", "in_channels", *getattr(builder, "fixed", ())}
    return [name for name in inspect.signature(family).parameters if name not in fixed]


def model_names() -> list[str]:
    """All names that :func:`create_model` takes."""
    return MODELS.names()
