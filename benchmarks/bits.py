"""Accuracy by bits of a weight and by method of quantisation.

    python -m benchmarks.bits
    python -m benchmarks.bits --run --bits 8,4,2 --methods round,search

Accuracies are those of the runs in benchmarks/results/bits; "-" stands where there is none.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.machine import ROOT, commit, hardware, wide_console
from benchmarks.runs import read_all, write_result
from has8 import Has8Error, load_checkpoint, load_data
from has8.data import Data
from has8.errors import BadInput
from has8.training.fit import fit
from has8.training.hardware import Hardware
from has8.training.recipes import RECIPES, TrainConfig
from has8.training.run_folder import MODEL
from hwsim import simulate
from mapping import Mapped, map_model
from mapping.finetune import PROVENANCE, prepare

RESULTS = Path(__file__).parent / "results" / "bits"
WORK = Path("runs") / "bits"
CALIBRATION = 256
"""Training images on which scales are searched."""
FLOAT, TUNED = "float", "fine-tuned"
METHODS: Mapping[str, Mapping[str, Any]] = {
    "round": {"scales": "round"},
    "search": {"scales": "search"},
    "per-channel": {"scales": "search", "per_channel": True},
    TUNED: {"scales": "search"},
}
"""By name, what :func:`mapping.map_model` is told; for the last, what training is."""
BITS = (8, 7, 6, 5, 4, 3, 2, 1)
NONE = "-"


@dataclass(frozen=True, slots=True)
class Result:
    """What one run came to; the content of its JSON file.

    Args:
        model: the checkpoint's file name.
        sha256: of the file.
        data: the name of the data.
        bits: of a weight; None for the float model.
        method: in :data:`METHODS`, or "float".
        samples: test images.
        budget: of fine-tuning: epochs, images in each, batch size, learning rate, seed and
            precision; None for the rest.
        accuracy: on the test images, in [0, 1]; of integers as the chip computes them.
        clipped: weights and biases that were out of the grid's range.
        cores: on which the model lies.
        seconds: of wall time, fine-tuning and simulation included.
        hardware: what it ran on.
        threads: of torch.
        torch: its version.
        commit: of the checkout, with "-dirty" where files differed; None outside of one.
    """

    model: str
    sha256: str
    data: str
    bits: int | None
    method: str
    samples: int
    budget: dict[str, Any] | None
    accuracy: float
    clipped: int | None
    cores: int | None
    seconds: float
    hardware: str
    threads: int
    torch: str
    commit: str | None

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from the results of other runs."""
        budget = None if self.budget is None else tuple(sorted(self.budget.items()))
        return self.sha256, self.data, self.bits, self.method, self.samples, budget


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run on.

    Args:
        checkpoint: the trained model's file.
        samples: test images, spread evenly over all.
        config: of fine-tuning.
        precision: likewise, "32" or "bf16".
        results: folder of the JSON files.
        work: folder of fine-tuning's own folders, from which it resumes.
        data: what the checkpoint was trained on.
    """

    checkpoint: Path
    samples: int
    config: TrainConfig
    precision: str
    results: Path
    work: Path
    data: Data

    def budget(self, method: str) -> dict[str, Any] | None:
        """What a fine-tuned number stands for."""
        if method != TUNED:
            return None
        config = self.config
        return {
            "epochs": config.epochs,
            "images": config.subset or len(self.data.train),
            "batch_size": config.batch_size,
            "lr": config.lr,
            "seed": config.seed,
            "precision": self.precision,
        }

    def name(self, bits: int | None, method: str) -> str:
        """Of a run's folder and of its result."""
        budget = self.budget(method) or {}
        parts = [f"{key[0]}{value}" for key, value in budget.items()]
        width = [] if bits is None else [f"{bits}bit"]
        model = [self.checkpoint.stem, self.sha256()[:8], self.data.name]
        return "-".join([*model, *width, method, f"n{self.samples}", *parts])

    def sha256(self) -> str:
        """Of the checkpoint's file."""
        return hashlib.sha256(self.checkpoint.read_bytes()).hexdigest()


def read_results(folder: Path) -> list[Result]:
    """All results in a folder; none where there is no folder.

    Raises:
        BadInput: for a file that is no result.
    """
    return read_all(folder, Result)


def missing(
    plan: Plan, bits: Sequence[int], methods: Sequence[str]
) -> Iterator[tuple[int | None, str]]:
    """Bits and method of each run that has no result yet; the float model comes first.

    The folder of results is read again before each, so that one that another process has
    finished meanwhile is not repeated.
    """
    cells = [(None, FLOAT), *((width, method) for method in methods for width in bits)]
    digest = plan.sha256()
    for width, method in cells:
        budget = plan.budget(method)
        rest = None if budget is None else tuple(sorted(budget.items()))
        key = (digest, plan.data.name, width, method, plan.samples, rest)
        if all(result.key != key for result in read_results(plan.results)):
            yield width, method


def perform(plan: Plan, bits: int | None, method: str) -> Result:
    """Quantise, after fine-tuning where that is the method, simulate, and write the result."""
    start, source = time.perf_counter(), commit()
    images, labels = plan.data.test.tensors(plan.samples)
    mapped = None
    if bits is None:
        network = load_checkpoint(plan.checkpoint).model
        with torch.inference_mode():
            logits = torch.cat([network(batch) for batch in images.split(100)])
    else:
        mapped = _mapped(plan, bits, method)
        logits = simulate(mapped, images).logits
    result = Result(
        model=plan.checkpoint.name,
        sha256=plan.sha256(),
        data=plan.data.name,
        bits=bits,
        method=method,
        samples=plan.samples,
        budget=plan.budget(method),
        accuracy=float((logits.argmax(1) == labels).double().mean()),
        clipped=sum(error.clipped for error in mapped.errors.values()) if mapped else None,
        cores=mapped.placement.cores_used if mapped else None,
        seconds=round(time.perf_counter() - start, 1),
        hardware=hardware("cuda" if torch.cuda.is_available() else "cpu"),
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
        commit=source,
    )
    write_result(plan.results / f"{plan.name(bits, method)}.json", asdict(result))
    return result


def _mapped(plan: Plan, bits: int, method: str) -> Mapped:
    checkpoint = load_checkpoint(plan.checkpoint)
    calibration, _ = plan.data.train.tensors(CALIBRATION)
    options = dict(METHODS[method])
    if method == TUNED:
        network, work = checkpoint.model, plan.work / plan.name(bits, method)
        quantization = prepare(network, calibration=calibration, weight_bits=bits, **options)
        fit(
            network,
            plan.data,
            plan.config,
            hardware=Hardware(precision=plan.precision),
            out=work,
            provenance={PROVENANCE: quantization.to_dict()},
        )
        checkpoint = load_checkpoint(work / MODEL)
        options = {"scales": quantization.scales}
    return map_model(checkpoint.model, calibration=calibration, weight_bits=bits, **options)


def table(results: Iterable[Result]) -> list[dict[str, Any]]:
    """One entry for each checkpoint, data and number of samples: accuracies in percent.

    ``accuracies[bits][method]`` is None where nobody ran it; of several budgets of fine-tuning
    the one with the most images in all is shown.
    """
    groups: dict[tuple[str, str, str, int], list[Result]] = {}
    for result in results:
        key = (result.model, result.sha256, result.data, result.samples)
        groups.setdefault(key, []).append(result)
    return [_entry(group) for _, group in sorted(groups.items())]


def _entry(group: Sequence[Result]) -> dict[str, Any]:
    ordered = sorted(group, key=_trained)
    cells = {(result.bits, result.method): result for result in ordered}
    head = {key: getattr(group[0], key) for key in ("model", "sha256", "data", "samples")}
    accuracies = {
        str(bits): {
            method: 100 * cells[bits, method].accuracy if (bits, method) in cells else None
            for method in METHODS
        }
        for bits in BITS
        if any((bits, method) in cells for method in METHODS)
    }
    float_ = cells.get((None, FLOAT))
    budgets = {str(bits): cells[bits, TUNED].budget for bits in BITS if (bits, TUNED) in cells}
    return {
        **head,
        "float": 100 * float_.accuracy if float_ else None,
        "accuracies": accuracies,
        "budgets": budgets,
        "runs": [asdict(result) for result in ordered],
    }


def _trained(result: Result) -> int:
    return result.budget["epochs"] * result.budget["images"] if result.budget else 0


def _rendered(entry: Mapping[str, Any]) -> Table:
    best = _percent(entry["float"])
    title = f"{entry['model']}, {entry['samples']:,} images of {entry['data']}, float {best} %"
    shown = Table("bits", *METHODS, title=title, box=SIMPLE_HEAD)
    for bits, row in entry["accuracies"].items():
        shown.add_row(bits, *(_percent(row[method]) for method in METHODS))
    return shown


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def listed(text: str, known: Sequence[str], what: str) -> list[str]:
    """The items of a comma-separated option.

    Raises:
        BadInput: for one that is not known.
    """
    chosen = [item.strip() for item in text.split(",") if item.strip()]
    if unknown := [item for item in chosen if item not in known]:
        raise BadInput(f"{what} must be of {', '.join(known)}, not {', '.join(unknown)}")
    return chosen


@click.command()
@click.option("--run", "running", is_flag=True, help="Do the runs that have no result yet.")
@click.option("--bits", default="8,6,5,4,3,2,1", show_default=True, help="Which rows to run.")
@click.option("--methods", default=",".join(METHODS), show_default=True, help="Which columns.")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    default=ROOT / "examples" / "models" / "cifar10.pt",
    show_default=True,
    help="The trained model.",
)
@click.option("--samples", type=click.IntRange(min=1), default=10_000, show_default=True)
@click.option("--epochs", type=int, default=1, show_default=True, help="Of fine-tuning.")
@click.option("--subset", type=int, help="Fine-tune on so many images.  [default: all]")
@click.option("--lr", type=float, help="Of fine-tuning.  [default: the recipe's]")
@click.option("--precision", type=click.Choice(["32", "bf16"]), default="bf16", show_default=True)
@click.option("--threads", type=int, help="Of torch.  [default: all]")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, hidden=True)
@click.option("--work", type=click.Path(path_type=Path), default=WORK, hidden=True)
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def main(
    running: bool,
    bits: str,
    methods: str,
    model: Path,
    samples: int,
    epochs: int,
    subset: int | None,
    lr: float | None,
    precision: str,
    threads: int | None,
    results: Path,
    work: Path,
    as_json: bool,
) -> None:
    """Show accuracy by bits of a weight and method, and run what is missing with --run."""
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        if running:
            trained_on = load_checkpoint(model).provenance
            data = load_data(trained_on["data"], preprocess=trained_on.get("preprocess", "crop"))
            config = replace(RECIPES["finetune"], epochs=epochs, lr=lr or RECIPES["finetune"].lr)
            if subset is not None and subset < len(data.train):
                config = replace(config, subset=subset)
            count = min(samples, len(data.test))
            plan = Plan(model, count, config, precision, results, work, data)
            rows = [int(row) for row in listed(bits, [str(b) for b in BITS], "--bits")]
            columns = listed(methods, list(METHODS), "--methods")
            for width, method in missing(plan, rows, columns):
                click.echo(f"{plan.name(width, method)} ...", err=True)
                _report(plan, width, method)
        entries = table(read_results(results))
    except Has8Error as error:
        raise click.ClickException(str(error)) from error
    for entry in entries:
        wide_console().print(_rendered(entry))
    if as_json:
        click.echo(json.dumps({"benchmark": "bits", "tables": entries}))


def _report(plan: Plan, bits: int | None, method: str) -> None:
    """Perform one run; one that cannot be is said and left out."""
    try:
        result = perform(plan, bits, method)
    except BadInput as error:
        click.echo(f"  not possible: {error}", err=True)
    else:
        click.echo(f"  {100 * result.accuracy:.2f} % in {result.seconds:.0f} s", err=True)


if __name__ == "__main__":
    main()
