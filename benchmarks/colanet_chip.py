"""What CoLaNET's learning loses in the chip's registers, and how fast the learning engine is.

``python -m benchmarks.colanet_chip`` learns scikit-learn's digits with the full rule and with its
form for a chip; ``--data mnist --images 10000 --tests 2000`` MNIST. ``--speed`` runs the engine
beside Lava's bit-approximate process instead.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import commit, hardware, versions
from benchmarks.runs import seeds_option
from has8 import Has8Error, load_data
from has8.colanet import RULES, CoLaNET, Rule, answers
from has8.colanet.network import FACTORS
from hwsim.backends.lava.interpreter import lava_python
from hwsim.experiments.learning import OnChip, learning_rule
from hwsim.experiments.learning_engine import CompiledEngine
from mapping.chip.learning import LearningRule

RULE = {
    "digits": replace(
        RULES.get("mnist"), columns=5, highest=0.6, lowest=-1.0, anti_hebb=-0.5, dopamine=0.5
    ),
    "mnist": RULES.get("mnist"),
}
HELD_BACK = 200
"""Images that choose the excitability of both."""
GOAL, NEURONS, INPUTS, STEPS, ACTIVE, FIRING = 1_000, 200, 784, 100, 0.1, 0.005
"""How many times as fast as Lava the engine should be, and the synapses and spikes of that run:
shares of inputs and neurons that fire in a step, as in learning MNIST."""


def run(
    data: str, rule: Rule, root: Path | None, images: int | None, tests: int | None, seed: int,
    copies: int, refresh: int, share: float = 1.0,
) -> dict[str, Any]:  # fmt: skip
    """Accuracies in percent of both forms, learned from the same images in the same order.

    Weights on the chip change by a share of what the rule says.
    """
    source = load_data(data, root)
    x, labels = source.train.tensors(len(source.train))
    shown, right = source.test.tensors(tests or len(source.test))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    held, learned = order[:HELD_BACK], order[HELD_BACK:][:images]
    size = x[0].numel()
    found: dict[str, Any] = {}
    smaller = replace(rule, anti_hebb=share * rule.anti_hebb, dopamine=share * rule.dopamine)
    nets: dict[str, CoLaNET | OnChip] = {
        "full": CoLaNET(size, 10, rule, copies=copies, seed=seed),
        "chip": OnChip(size, 10, smaller, copies=copies, seed=seed, refresh=refresh),
    }
    for name, net in nets.items():
        start = time.process_time()
        net.learn(x[learned], labels[learned])
        found[f"{name}_seconds"] = time.process_time() - start
        choose(net, rule.noise, x[held], labels[held])
        found[name] = 100 * float((answers(net.counts(shown)) == right).float().mean())
    facts = {
        "data": data,
        "images": len(learned),
        "tests": len(right),
        "refresh": refresh,
        "share": share,
    }
    return {**facts, "seed": seed, "copies": copies, **found}


def choose(net: CoLaNET | OnChip, noise: float, x: Tensor, labels: Tensor) -> None:
    """Give a network that excitability which answers most of some images right."""
    scores = {}
    for factor in FACTORS[::2]:
        net.excitability = factor * noise
        scores[net.excitability] = int((answers(net.counts(x)) == labels).sum())
    net.excitability = max(scores, key=lambda one: scores[one])


def speed(rule: LearningRule, steps: int = STEPS) -> dict[str, Any]:
    """Milliseconds of processor time that a step takes in Lava's process, and in the engine.

    Raises:
        BackendError: if Lava is not here.
        RuntimeError: if the two differ in any weight, tag, delay or trace.
    """
    rng = np.random.default_rng(0)
    pre, post = rng.random((steps, INPUTS)) < ACTIVE, rng.random((steps, NEURONS)) < FIRING
    sent = np.zeros((steps, 3, NEURONS), np.int64)
    owing = rng.random((steps, NEURONS)) < FIRING  # pays or earns
    sent[:, :2] = rng.integers(1, 9, (steps, 1, 1)) * owing[:, None]
    sent[:, 0] *= rng.random((steps, NEURONS)) < 0.5
    sent[:, 1] *= sent[:, 0] == 0
    weights = rng.integers(-256, 93, (NEURONS, INPUTS))
    engine, seed = CompiledEngine(rule, weights, seed=11), 11
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "in.npz", Path(folder) / "out.npz"
        told = json.dumps(as_lava_writes(rule, seed))
        np.savez(file, rule=told, pre=pre, post=post, sent=sent, weights=weights)
        program = Path(__file__).with_name("learning_in_lava.py")
        subprocess.run([lava_python(), program, file, out], check=True)
        with np.load(out) as found:
            slow = float(found["seconds"]) / steps
            expected = {name: found[name][-1] for name in ("traces", "w", "d", "t")}
    engine.run(pre, post, sent)
    for name, values in {"traces": engine.traces, **engine.variables}.items():
        if not np.array_equal(values, expected[name]):
            raise RuntimeError(f"engine and Lava differ in {name}")
    times = []
    for _ in range(21):
        start = time.process_time()
        engine.run(pre, post, sent)
        times.append((time.process_time() - start) / steps)
    fast = sorted(times)[len(times) // 2]
    return {
        "neurons": NEURONS, "inputs": INPUTS, "steps": steps, "lava_ms": 1e3 * slow,
        "engine_ms": 1e3 * fast, "times": slow / fast, "goal": GOAL,
    }  # fmt: skip


def as_lava_writes(rule: LearningRule, seed: int) -> dict[str, Any]:
    """The arguments of its ``Loihi3FLearningRule``."""
    text: dict[str, Any] = {
        f"d{variable}": " + ".join(map(str, products)).replace("+ -", "- ")
        for variable, products in rule.changes.items()
    }
    for n in range(2):
        text |= {f"x{n + 1}_impulse": rule.impulses[n], f"x{n + 1}_tau": rule.time_constants[n]}
    return {**text, "rng_seed": seed}


@click.command()
@click.option("--data", type=click.Choice(list(RULE)), default="digits", show_default=True)
@click.option("--rule", type=click.Choice(RULES.names()), help="Of both, instead of the data's.")
@click.option("--images", type=click.IntRange(1), help="Training images, instead of all.")
@click.option("--tests", type=click.IntRange(1), help="Test images, instead of all.")
@click.option("--copies", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--refresh",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Samples after which the host writes thresholds.",
)
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Of the rule's steps, by which weights on the chip change.",
)
@seeds_option
@click.option("--speed", "measure", is_flag=True, help="The engine beside Lava's process.")
@click.option("--data-root", type=click.Path(path_type=Path), help="Where data lie.")
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def main(
    data: str,
    rule: str | None,
    images: int | None,
    tests: int | None,
    copies: int,
    refresh: int,
    share: float,
    seeds: tuple[int, ...],
    measure: bool,
    data_root: Path | None,
    as_json: bool,
) -> None:
    """Print the products, and the accuracies of both or the speed of the engine."""
    torch.set_num_threads(1)
    chosen = RULE[data] if rule is None else RULES.get(rule)
    for variable, products in learning_rule(chosen).changes.items():
        click.echo(f"d{variable} = {' + '.join(map(str, products))}")
    result: dict[str, Any] = {}
    try:
        if measure:
            result["speed"] = found = speed(learning_rule(RULE["mnist"]))
            click.echo(
                f"a step of {NEURONS} x {INPUTS} synapses: Lava {found['lava_ms']:.1f} ms, the "
                f"engine {found['engine_ms']:.4f} ms, {found['times']:,.0f} times as fast "
                f"(goal {GOAL:,})"
            )
        else:
            result["runs"] = []
            for seed in seeds:
                found = run(data, chosen, data_root, images, tests, seed, copies, refresh, share)
                result["runs"].append(found)
                click.echo(
                    f"{data}, seed {seed}, {copies} copies, {found['images']:,} images once: full "
                    f"rule {found['full']:.2f} %, in the chip's registers {found['chip']:.2f} %"
                )
    except Has8Error as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        facts = {"hardware": hardware(), "versions": versions(), "commit": commit()}
        click.echo(json.dumps({"benchmark": "colanet_chip", **result, **facts}))


if __name__ == "__main__":
    main()
