"""What classifiers are held against on the same features: linear probe and nearest class mean."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        steps: iterations.

    Returns:
        ``int64`` of each test.
    """
    mean = x.mean(0)
    scale = (x - mean).std()
    x, tests = (x - mean) / scale, (tests - mean) / scale
    model = nn.Linear(x.shape[1], classes)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=steps, line_search_fn="strong_wolfe", history_size=20
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), labels) + decay / 2 * model.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        return model(tests).argmax(1)


def class_means(x: Tensor, labels: Tensor, tests: Tensor, classes: int) -> Tensor:
    """The class whose mean is nearest to each test, ``int64``."""
    means = torch.stack([x[labels == label].mean(0) for label in range(classes)])
    return torch.cdist(tests, means).argmin(1)
