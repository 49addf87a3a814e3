"""New classes from 1, 5 and 20 photographs: CoLaNET, class by class, beside other classifiers.

``python -m benchmarks.colanet_few_shot`` learns all but ten of Caltech-101's 64 largest classes,
then the ten others one after another. The linear probe and the nearest class mean are fitted to all
photographs of the old classes again. CoLaNET also sees the photographs of a new class again and
again, which is no longer one pass.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import click
import torch

from benchmarks.colanet_tables import accuracy, inputs
from benchmarks.probes import class_means, linear_probe
from has8 import Has8Error
from has8.colanet import CoLaNET, answers
from has8.data import Data

NEW, SHOTS, HELD_BACK = 10, (1, 5, 20), 200
"""New classes, photographs of each, and old photographs that choose the excitability."""
REPEATS = (1, 3, 10)
"""How often CoLaNET is shown the photographs of a new class."""


def few_shot(data: Data, copies: int, seed: int) -> list[dict[str, float]]:
    """Accuracies in percent on test photographs of old and new classes, a row for each of SHOTS."""
    (x, labels), (tests, right) = (part.tensors(len(part)) for part in (data.train, data.test))
    x, tests, classes = x.flatten(1), tests.flatten(1), len(data.class_names)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    x, labels = x[order], labels[order]
    new = torch.randperm(classes, generator=generator)[:NEW]
    old, fresh = ~torch.isin(labels, new), torch.isin(right, new)
    known, names = x[old], labels[old]
    net = CoLaNET(x.shape[1], classes, "embedding", copies=copies, seed=seed)
    net.learn(known[:-HELD_BACK], names[:-HELD_BACK])
    net.choose_excitability(known[-HELD_BACK:], names[-HELD_BACK:])
    net.learn(known[-HELD_BACK:], names[-HELD_BACK:])
    saved, rows = net.to_dict(), list[dict[str, float]]()
    for shots in SHOTS:
        firsts = [(labels == label).nonzero()[:shots, 0] for label in new]
        shown = torch.cat(firsts)
        everything = torch.cat([known, x[shown]]), torch.cat([names, labels[shown]])
        found = {
            "probe": linear_probe(*everything, tests, classes),
            "class_mean": class_means(*everything, tests, classes),
        }
        for times in REPEATS:
            again = torch.cat([some.repeat(times) for some in firsts])  # class by class
            net = CoLaNET.from_dict(deepcopy(saved))
            net.learn(x[again], labels[again])
            found[f"colanet_{times}"] = answers(net.counts(tests))
        row: dict[str, float] = {"seed": seed, "shots": shots}
        for name, answer in found.items():
            for part, chosen in (("old", ~fresh), ("new", fresh)):
                row[f"{name}_{part}"] = accuracy(answer[chosen], right[chosen])
        rows.append(row)
    return rows


@click.command()
@click.option("--copies", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="0, 1, ...")
@click.option("--data-root", type=click.Path(path_type=Path), help="Where data lie.")
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def main(copies: int, seeds: int, data_root: Path | None, as_json: bool) -> None:
    """Print one line for each seed and number of photographs."""
    torch.set_num_threads(1)
    try:
        data = inputs("caltech101", data_root)
    except Has8Error as error:
        raise click.ClickException(str(error)) from error
    rows = [row for seed in range(seeds) for row in few_shot(data, copies, seed)]
    for row in rows:
        click.echo("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
    if as_json:
        click.echo(json.dumps({"benchmark": "colanet_few_shot", "rows": rows}))


if __name__ == "__main__":
    main()
