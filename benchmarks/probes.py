"""What classifiers are held against on the same features: linear probe and nearest class mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor


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
