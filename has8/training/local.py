"""Learning by local rules: a CoLaNET sees each image once, and becomes a model file."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from has8.colanet import CoLaNET, Rule
from has8.data import Data, batches
from has8.errors import BadInput
from has8.files import held
from has8.models import create_model
from has8.models.colanet import colanet_state
from has8.models.pretrained import Encoder
from has8.training import checkpoint
from has8.training.features import embed, saturated
from has8.training.fit import evaluate
from has8.training.run_folder import LOCAL, MODEL, RunFolder
from has8.values import whole

BATCH = 500
SATURATION = 2.0
"""Of embeddings: 98 to 99 % of those of EfficientNet-lite0 lie below."""
SAVE_EVERY = 5_000
"""Images between two states on disk."""
HELD_BACK, MOST_HELD_BACK = 20, 2_000
"""One image of so many chooses the excitability before it is learned; and at most so many."""
MEASURED = 2_000
"""Images whose active inputs are counted."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What learning has come to.

    Args:
        model: the classifier that is in the model file.
        net: the network that has learned.
        test_accuracy: of the classifier, on the held-out images, in [0, 1].
        seconds: wall time since the run began or was resumed.
    """

    model: nn.Module
    net: CoLaNET
    test_accuracy: float
    seconds: float


def learn(
    data: Data,
    rule: Rule,
    *,
    out: Path,
    copies: int = 10,
    seed: int = 0,
    subset: int | None = None,
    encoder: Encoder | None = None,
    saturation: float = SATURATION,
    fit: bool = False,
    resume: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> Learned:
    """Show a CoLaNET every image once, in an order by the seed, and write ``OUT/model.pt``.

    The last twentieth of them chooses the excitability, and is learned then. No held-out image has
    any part in it. What was interrupted goes on from ``OUT/colanet.pt``, and comes to the same.

    Args:
        data: images in [0, 1].
        rule: constants.
        out: the folder of the results.
        copies: networks whose counts are merged.
        seed: of the order and of the noise.
        subset: learn so many images only; None for all.
        encoder: what makes embeddings of the images, which are learned in their place and kept; see
            :func:`has8.embed`.
        saturation: the value of an embedding that is coded as 1.
        fit: take the rule for as many active inputs as the images have
            (:meth:`has8.colanet.Rule.for_active`).
        resume: go on from what is there; False starts over in place of any run.
        on_progress: called with images learned, and images in all.

    Raises:
        BadInput: if there are no images, or ``out`` holds another run, or files of such names that
            no training wrote, or is written to by another process.
        CheckpointError: if it is damaged.
    """
    if subset is not None:
        subset = whole(subset, "subset", 1)
    start, source = time.perf_counter(), data
    if encoder is not None:
        data = saturated(embed(data, encoder, on_progress), saturation)
    inputs = torch.Size(data.input_shape).numel()
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:subset]
    if fit:
        rule = rule.for_active(active_inputs(data, order[:MEASURED]))
    identity = {
        "colanet": asdict(rule), "copies": copies, "seed": seed, "subset": subset,
        "data": data.name, "input_shape": list(data.input_shape), "preprocess": data.preprocess,
        "train_images": len(data.train), "class_names": list(data.class_names),
    }  # fmt: skip
    if encoder is not None:
        identity |= {"input_shape": list(source.input_shape), "saturation": saturation}
        identity |= {"encoder": encoder.name, "encoder_sha256": encoder.digest()}
    folder = RunFolder(out, identity, LOCAL)
    with held(out):
        saved = folder.read(resume)
        net = CoLaNET(inputs, len(data.class_names), rule, copies=copies, seed=seed)
        net = net if saved is None else CoLaNET.from_dict(saved)
        _show(net, data, order, folder, on_progress)
        accuracy = evaluate(classifier(net, data.input_shape), data.test)
        model = classifier(net, source.input_shape, encoder, saturation)
        facts = {"excitability": net.excitability, "epoch": 1, "test_accuracy": accuracy}
        checkpoint.save(
            out / MODEL,
            model,
            input_shape=source.input_shape,
            class_names=data.class_names,
            provenance={**identity, **facts},
        )
    return Learned(model, net, accuracy, time.perf_counter() - start)


def _show(
    net: CoLaNET,
    data: Data,
    order: Tensor,
    folder: RunFolder,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Show the network what it has not yet seen of the images of that order."""
    last = len(order) - max(1, min(len(order) // HELD_BACK, MOST_HELD_BACK))
    while net.shown < len(order):
        end = min(net.shown + SAVE_EVERY, len(order))
        if net.shown < last:
            end = min(end, last)
        elif net.shown == last:
            net.choose_excitability(*_tensors(data, order[last:]))
        for images, labels in batches(data.train, BATCH, indices=order[net.shown : end]):
            net.learn(images, labels)
            if on_progress is not None:
                on_progress(net.shown, len(order))
        folder.write_state(net.to_dict())


def active_inputs(data: Data, indices: Tensor) -> float:
    """How many inputs fire in a step, on average over some training images.

    Raises:
        BadInput: if all values are 0.
    """
    active = float(_tensors(data, indices)[0].flatten(1).sum(1).mean())
    if not active > 0:
        raise BadInput(f"all values of {data.name} are 0, so that no input would ever fire")
    return active


def classifier(
    net: CoLaNET,
    input_shape: tuple[int, int, int],
    encoder: Encoder | None = None,
    saturation: float = 1.0,
) -> nn.Module:
    """The network as a model that can be saved and mapped, in evaluation mode.

    Args:
        net: a network that has learned.
        input_shape: ``(C, H, W)`` of a sample; ``(N, 1, 1)`` of an embedding.
        encoder: what made the embeddings that it has learned, of images of that shape.
        saturation: what embeddings were divided by.
    """
    front = {"encoder": encoder.name, "saturation": saturation} if encoder is not None else {}
    model = create_model(
        "colanet",
        num_classes=net.classes,
        in_channels=input_shape[0],
        size=list(input_shape[1:]),
        columns=net.rule.columns,
        copies=len(net.state.seeds),
        steps=net.rule.steps,
        membrane_steps=float(net.rule.membrane_steps),
        **front,
    )
    learned = colanet_state(net)
    if encoder is not None:
        learned |= {f"front.0.{key}": tensor for key, tensor in encoder.state_dict().items()}
    model.load_state_dict(model.state_dict() | learned)
    return model.eval()


def _tensors(data: Data, indices: Tensor) -> tuple[Tensor, Tensor]:
    images, labels = zip(*batches(data.train, BATCH, indices=indices), strict=True)
    return torch.cat(images), torch.cat(labels)
