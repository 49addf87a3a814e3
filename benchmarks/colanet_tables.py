"""What CoLaNET reaches in one pass, beside linear probe, class means and gradients.

    python -m benchmarks.colanet_tables
    python -m benchmarks.colanet_tables --run mnist --seeds 0,1,2
    python -m benchmarks.colanet_tables --run cifar10 --subset 2000

Rows are the runs in benchmarks/results/colanet; a run that is interrupted goes on when it is given
again. Constants were chosen on training images that were held back, never on test images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.machine import commit, hardware, wide_console
from benchmarks.probes import class_means, linear_probe, surrogate_gradients
from benchmarks.runs import seeds_option, write_result
from has8 import Has8Error, embed, load_data, pretrained
from has8.colanet import RULES, answers
from has8.data import ArrayImages, Data, ImageDataset
from has8.errors import BadInput
from has8.training.features import saturated
from has8.training.local import SATURATION, learn

RESULTS = Path(__file__).parent / "results" / "colanet"
WORK = Path("runs") / "colanet_tables"
COPIES = (1, 2, 5, 10, 15, 40)
"""Numbers of copies in a table; the first so many of a run are merged."""
RULE = {"mnist": "mnist_leakier", "fashion_mnist": "mnist_tuned", "digits": "mnist_tuned",
        "caltech101": "embedding", "cifar10": "embedding"}  # fmt: skip
"""The rule of each data set."""
ENCODER = {"caltech101": "efficientnet_lite0", "cifar10": "efficientnet_lite0"}
"""What makes embeddings of images; those of other data sets are learned as pixels."""
TESTS = 5
"""Of a subset that an encoder embeds there are so many times fewer test images."""


def accuracy(found: Tensor, labels: Tensor) -> float:
    """In percent."""
    return 100 * float((found == labels).float().mean())


def inputs(name: str, root: Path | None, subset: int | None = None) -> Data:
    """A data set's pixels or embeddings, in [0, 1].

    Embeddings take their time: of a subset, no more images than those are embedded, as many of each
    class, and a fifth of that for tests.
    """
    if name not in ENCODER:
        return load_data(name, root)
    encoder = pretrained(ENCODER[name])
    data = load_data(name, root, encoder.size, preprocess=encoder.preprocess)
    if subset is not None:
        classes = len(data.class_names)
        train, test = (
            balanced(part, each // classes)
            for part, each in ((data.train, subset), (data.test, subset // TESTS))
        )
        data = replace(data, train=train, test=test)
    return saturated(embed(data, encoder), SATURATION)


def balanced(images: ImageDataset, each: int) -> ImageDataset:
    """The first so many images of each class, in their order.

    Raises:
        BadInput: if they are not in memory.
    """
    if not isinstance(images, ArrayImages):
        raise BadInput("a subset can only be embedded of images that come as one file")
    labels, few = images.labels, copy(images)
    firsts = [(labels == label).nonzero()[:each, 0] for label in labels.unique()]
    chosen = torch.cat(firsts).sort().values
    few.images, few.labels = images.images[chosen], labels[chosen]
    return few


def run(data: Data, rule: str, *, copies: int, columns: int | None, seed: int, work: Path,
        subset: int | None, console: Console, encoder: str = "pixels",
        ) -> dict[str, Any]:  # fmt: skip
    """One run, and what stands beside it: a row of the table."""
    chosen = RULES.get(rule)
    chosen = chosen if columns is None else replace(chosen, columns=columns)
    out = work / f"{data.name}-{rule}-{chosen.columns}x{copies}-{seed}"
    learned = learn(
        data, chosen, out=out, copies=copies, seed=seed, subset=subset,
        on_progress=lambda done, total: console.print(f"{out.name}: {done:,} of {total:,}")
        if done % 5_000 == 0 else None,
    )  # fmt: skip
    x, labels = data.train.tensors(len(data.train))
    tests, right = data.test.tensors(len(data.test))
    counts = learned.net.counts(tests, merged=False)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:subset]
    features, labels, flat = x.flatten(1)[order], labels[order], tests.flatten(1)
    classes = len(data.class_names)
    gradients: dict[str, float] = {}
    if chosen.columns == 1:  # gradients do not come through the inhibition within a column
        found = surrogate_gradients(features, labels, flat, classes, chosen, seed=seed)
        gradients["gradients"] = accuracy(found, right)
    return {
        "data": data.name,
        "encoder": encoder,
        "rule": rule,
        "constants": asdict(chosen),
        "columns": chosen.columns,
        "seed": seed,
        "images": len(order),
        "test_images": len(right),
        "excitability": learned.net.excitability,
        "accuracy": {
            str(number): accuracy(answers(counts[:number].sum(0)), right)
            for number in COPIES
            if number <= copies
        },
        "single": mean(accuracy(answers(one), right) for one in counts),
        "chip_form": 100 * learned.test_accuracy,
        "copies": copies,
        "probe": accuracy(linear_probe(features, labels, flat, classes), right),
        "class_mean": accuracy(class_means(features, labels, flat, classes), right),
        **gradients,
        "seconds": learned.seconds,
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "commit": commit(),
    }


def rows(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for all seeds of each setting: means, and the deviation of all copies' accuracy."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    keys = ("data", "encoder", "rule", "columns", "copies", "images")
    for result in results:
        groups.setdefault(tuple(result[key] for key in keys), []).append(result)
    made = []
    for values, group in sorted(groups.items(), key=lambda item: str(item[0])):
        whole = [result["accuracy"][str(result["copies"])] for result in group]
        row = dict(zip(keys, values, strict=True))
        row["seeds"] = sorted(result["seed"] for result in group)
        for number in group[0]["accuracy"]:
            row[f"accuracy_{number}"] = mean(result["accuracy"][number] for result in group)
        row["spread"] = stdev(whole) if len(whole) > 1 else None
        for key in ("single", "chip_form", "probe", "class_mean", "seconds"):
            row[key] = mean(result[key] for result in group)
        known = [result["gradients"] for result in group if "gradients" in result]
        row["gradients"] = mean(known) if known else None
        made.append(row)
    return made


def table(found: Sequence[Mapping[str, Any]]) -> Table:
    """Accuracies in percent, means over the seeds."""
    title = "CoLaNET, one pass: top-1 accuracy in %, over the number of copies"
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    names = ("data", "input", "rule", "M", "images", "seeds", *map(str, COPIES), "spread")
    for column in (*names, "chip form", "probe", "class mean", "gradients", "s"):
        shown.add_column(column, no_wrap=True)
    for row in found:
        accuracies = [row.get(f"accuracy_{number}") for number in COPIES]
        numbers = [
            *accuracies,
            row["spread"],
            *(row[k] for k in ("chip_form", "probe", "class_mean", "gradients")),
        ]
        shown.add_row(
            row["data"], row["encoder"], row["rule"], str(row["columns"]), f"{row['images']:,}",
            str(len(row["seeds"])), *("-" if n is None else f"{n:.2f}" for n in numbers),
            f"{row['seconds']:.0f}",
        )  # fmt: skip
    return shown


@click.command()
@click.option("--run", "asked", type=click.Choice(list(RULE)), help="Do the runs that are missing.")
@click.option("--rule", type=click.Choice(RULES.names()), help="Instead of the table's.")
@click.option("--copies", type=click.IntRange(1), default=10, show_default=True)
@click.option("--columns", type=click.IntRange(1), help="Microcolumns, instead of the rule's.")
@seeds_option
@click.option("--subset", type=click.IntRange(1), help="Training images, instead of all.")
@click.option("--threads", type=click.IntRange(1), help="Of torch and of the rule.")
@click.option("--data-root", type=click.Path(path_type=Path), help="Where data lie.")
@click.option("--results", default=RESULTS, type=click.Path(path_type=Path), help="Of the runs.")
@click.option("--work", default=WORK, type=click.Path(path_type=Path), help="To resume from.")
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def main(
    asked: str | None,
    rule: str | None,
    copies: int,
    columns: int | None,
    seeds: tuple[int, ...],
    subset: int | None,
    threads: int | None,
    data_root: Path | None,
    results: Path,
    work: Path,
    as_json: bool,
) -> None:
    """Print the table of all runs; with --run, do first what is missing."""
    if threads is not None:
        torch.set_num_threads(threads)
    console = Console(stderr=True)
    try:
        for seed in seeds if asked else ():
            data, name = inputs(str(asked), data_root, subset), rule or RULE[str(asked)]
            file = (
                results / f"{asked}-{name}-{columns or 'M'}x{copies}-{subset or 'all'}-{seed}.json"
            )
            if not file.exists():
                found = run(data, name, copies=copies, columns=columns, seed=seed, work=work,
                            subset=subset, console=console,
                            encoder=ENCODER.get(str(asked), "pixels"))  # fmt: skip
                write_result(file, found)
    except Has8Error as error:
        raise click.ClickException(str(error)) from error
    found_rows = rows([json.loads(file.read_text()) for file in sorted(results.glob("*.json"))])
    wide_console().print(table(found_rows))
    if as_json:
        click.echo(json.dumps({"benchmark": "colanet_tables", "rows": found_rows}))


if __name__ == "__main__":
    main()
