"""A program for an interpreter that has Lava: its bit-approximate learning, step by step.

``python learning_in_lava.py IN.npz OUT.npz ...`` reads the spikes of both layers, what the
second one sends, first weights and a rule, and writes weights, delays, tags and traces, and the
seconds of processor time that the steps took.
"""

import json
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
from lava.magma.core.learning.constants import GradedSpikeCfg
from lava.magma.core.learning.learning_rule import Loihi3FLearningRule
from lava.proc.dense.models import PyLearningDenseModelBitApproximate
from lava.utils.weightutils import SignMode


def learn(source: str, out: str) -> None:
    """Run the steps of one file."""
    given = np.load(source)
    options = json.loads(str(given["rule"]))
    pre, post, sent = given["pre"], given["post"], given["sent"]
    model = PyLearningDenseModelBitApproximate(
        {
            "learning_rule": Loihi3FLearningRule(**options),
            "shape": (post.shape[1], pre.shape[1]),
            "graded_spike_cfg": GradedSpikeCfg.USE_REGULAR_IMPULSE,
            "sign_mode": SignMode.MIXED,
        }
    )
    model.weights = given["weights"].astype(np.int32)
    model.tag_1, model.tag_2 = (np.zeros_like(model.weights) for _ in range(2))
    for name in ("x0", "tx", "x1", "x2"):
        setattr(model, name, np.zeros(pre.shape[1], bool if name == "x0" else int))
    for name in ("y0", "ty", "y1", "y2", "y3"):
        setattr(model, name, np.zeros(post.shape[1], bool if name == "y0" else int))
    seconds = 0.0
    found: dict[str, Any] = {name: [] for name in ("w", "d", "t", "traces")}
    for step in range(len(pre)):
        model.time_step = step + 1
        inputs = (post[step], *sent[step])
        for name, value in zip(("s_in_bap", "s_in_y1", "s_in_y2", "s_in_y3"), inputs, strict=True):
            setattr(model, name, SimpleNamespace(recv=lambda value=value: value))
        start = time.process_time()
        model.recv_traces(pre[step])
        model.run_lrn()
        seconds += time.process_time() - start
        now = (model.weights, model.tag_2, model.tag_1, np.stack([model.x1, model.x2]))
        for name, value in zip(found, now, strict=True):
            found[name].append(np.array(value))
    np.savez(out, seconds=seconds, **found)


for place in range(1, len(sys.argv), 2):
    learn(*sys.argv[place : place + 2])
