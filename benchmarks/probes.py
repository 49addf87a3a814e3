"""What classifiers are held against on the same features: linear probe and nearest class mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

from has8 import create_model
from has8.colanet import Rule


def linear_probe(
    x: Tensor, labels: Tensor, tests: Tensor, classes: int, *, decay: float = 1e-4, steps: int = 60
) -> Tensor:
    """The answers of a multinomial logistic regression, fitted by L-BFGS.

    Args:
        x: features ``[B, N]`` to learn from; they are centred, and scaled by one number.
        labels: ``int64[B]``.
        tests: features to classify.
        classes: K.
        decay: weight of half the squared weights, beside the mean cross entropy.
        steps: most iterations.

    Returns:
        ``int64`` of each test.
    """
    mean = x.mean(0)
    scale = (x - mean).std()
    x, tests = ((F.pad((part - mean) / scale, (0, 1), value=1.0)) for part in (x, tests))
    right = F.one_hot(labels, classes).to(x)

    def loss(flat: Any) -> tuple[float, Any]:
        weights = torch.from_numpy(flat).to(x).view(-1, classes)
        scores = (x @ weights).log_softmax(1)
        value = -(scores * right).sum() / len(x) + decay / 2 * weights.square().sum()
        gradient = x.T @ (scores.exp() - right) / len(x) + decay * weights
        return float(value), gradient.double().flatten().numpy()

    start = np.zeros(x.shape[1] * classes)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": steps})
    return (tests @ torch.from_numpy(found.x).to(x).view(-1, classes)).argmax(1)


def class_means(x: Tensor, labels: Tensor, tests: Tensor, classes: int) -> Tensor:
    """The class whose mean is nearest to each test, ``int64``."""
    means = torch.stack([x[labels == label].mean(0) for label in range(classes)])
    return torch.cdist(tests, means).argmin(1)


def surrogate_gradients(
    x: Tensor, labels: Tensor, tests: Tensor, classes: int, rule: Rule, *, epochs: int = 10,
    batch: int = 50, rate: float = 1e-3, seed: int = 0,
) -> Tensor:  # fmt: skip
    """The answers of CoLaNET's own network, one copy, trained by gradients: ``int64`` of each test.

    The layers are those of :mod:`has8.models.colanet`, which a chip runs; the inhibition within a
    column is fixed, and the loss is the cross entropy of the counts of spikes.

    Args:
        x: values ``[B, N]`` in [0, 1] to learn from.
        labels: ``int64[B]``.
        tests: values to classify.
        classes: K.
        rule: whose columns, steps and leak the network has.
        epochs: passes over the data.
        batch: samples of a step of Adam.
        rate: its first rate, which falls to 0 as a half cosine.
        seed: of weights and order.
    """
    torch.manual_seed(seed)
    model = create_model(
        "colanet", num_classes=classes, in_channels=x.shape[1], size=(1, 1), copies=1,
        columns=rule.columns, steps=rule.steps, membrane_steps=float(rule.membrane_steps),
    )  # fmt: skip
    model.get_submodule("inhibit").requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], rate)
    total = epochs * -(-len(x) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    for _ in range(epochs):
        for some in torch.randperm(len(x)).split(batch):
            loss = F.cross_entropy(model(x[some]), labels[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return torch.cat([model.eval()(some).argmax(1) for some in tests.split(500)])
