"""What CoLaNET's learning loses in the chip's registers, on scikit-learn's digits.

``python -m benchmarks.colanet_chip`` learns with the full rule and with its form for a chip.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import click
import torch

from benchmarks.machine import commit, hardware
from benchmarks.runs import seeds_option
from has8 import load_data
from has8.colanet import RULES, CoLaNET, answers
from has8.colanet.network import FACTORS
from hwsim.experiments.learning import OnChip, learning_rule

RULE = replace(
    RULES.get("mnist"), columns=5, highest=0.6, lowest=-1.0, anti_hebb=-0.5, dopamine=0.5
)
HELD_BACK = 200
"""Images that choose the excitability of both."""


def run(seed: int, copies: int) -> dict[str, Any]:
    """Accuracies in percent of both forms, learned from the same images in the same order."""
    data = load_data("digits")
    images, labels = data.train.tensors(len(data.train))
    tests, right = data.test.tensors(len(data.test))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    held, learned = order[:HELD_BACK], order[HELD_BACK:]
    found = {}
    nets: dict[str, CoLaNET | OnChip] = {
        "full": CoLaNET(64, 10, RULE, copies=copies, seed=seed),
        "chip": OnChip(64, 10, RULE, copies=copies, seed=seed),
    }
    for name, net in nets.items():
        net.learn(images[learned], labels[learned])
        scores = {}
        for factor in FACTORS[::2]:
            net.excitability = factor * RULE.noise
            hits = answers(net.counts(images[held])) == labels[held]
            scores[net.excitability] = float(hits.float().mean())
        net.excitability = max(scores, key=lambda one: scores[one])
        found[name] = 100 * float((answers(net.counts(tests)) == right).float().mean())
    return {"seed": seed, "copies": copies, **found}


@click.command()
@click.option("--copies", type=click.IntRange(1), default=5, show_default=True)
@seeds_option
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def main(copies: int, seeds: tuple[int, ...], as_json: bool) -> None:
    """Print the accuracies of both, and the products."""
    rule = learning_rule(RULE)
    for variable, products in rule.changes.items():
        click.echo(f"d{variable} = {' + '.join(map(str, products))}")
    runs = []
    for seed in seeds:
        runs.append(run(seed, copies))
        found = runs[-1]
        click.echo(
            f"seed {seed}, {copies} copies, one pass: full rule {found['full']:.2f} %, "
            f"in the chip's registers {found['chip']:.2f} %"
        )
    if as_json:
        facts = {"hardware": hardware(), "commit": commit()}
        click.echo(json.dumps({"benchmark": "colanet_chip", "runs": runs, **facts}))


if __name__ == "__main__":
    main()
