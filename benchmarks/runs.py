"""Training runs for the paper's tables: what one came to, which are missing, and running them.

A result is one JSON file, written when its run is complete. A run and its result are known by the
setting and the whole budget, so that a short run never stands for a long one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
import torch

from benchmarks.machine import commit, hardware
from benchmarks.paper import Setting
from has8 import TrainConfig, fit, load_checkpoint, load_data
from has8.data import Data
from has8.errors import BadInput
from has8.files import write_whole
from has8.memory import keep_pages
from has8.training import liven
from has8.training.hardware import Hardware
from has8.training.history import Report
from has8.training.new_model import new_model, recipe_options
from has8.training.recipes import RECIPES
from has8.training.run_folder import MODEL
from has8.training.separate import keep_artificial


@dataclass(frozen=True, slots=True)
class Budget:
    """How much training a number stands for.

    Args:
        recipe: in :data:`has8.training.recipes.RECIPES`; the fields below replace its own.
        epochs: passes over the training images.
        images: training images in each.
        batch_size: images in a step.
        seed: of weights, order and augmentation.
        precision: "32" or "bf16".
    """

    recipe: str
    epochs: int
    images: int
    batch_size: int
    seed: int
    precision: str

    def __str__(self) -> str:
        """For a table's row."""
        epochs = "1 epoch" if self.epochs == 1 else f"{self.epochs} epochs"
        return (
            f"{epochs} x {self.images:,} images, batch {self.batch_size}, {self.recipe}, "
            f"{'fp32' if self.precision == '32' else self.precision}, seed {self.seed}"
        )


@dataclass(frozen=True, slots=True)
class Result:
    """What one complete run came to; the content of its JSON file.

    Args:
        table: for which it was run; others with the same setting show it too.
        setting: its name.
        model: for :func:`has8.create_model`.
        options: likewise.
        data: the name of the data.
        recipe, epochs, images, batch_size, seed, precision: see :class:`Budget`.
        accuracy: on all held-out images after the last epoch, in [0, 1].
        seconds: wall time of all epochs, testing included.
        hardware: what it ran on.
        threads: of torch.
        torch: its version.
        after: the setting whose artificial layers it took; None where it trained all.
        commit: of the checkout, with "-dirty" where files differed; None outside of one.
    """

    table: str
    setting: str
    model: str
    options: dict[str, Any]
    data: str
    recipe: str
    epochs: int
    images: int
    batch_size: int
    seed: int
    precision: str
    accuracy: float
    seconds: float
    hardware: str
    threads: int
    torch: str
    commit: str | None
    after: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.accuracy <= 1:
            raise ValueError(f"accuracy must lie in [0, 1], not {self.accuracy}")

    @property
    def budget(self) -> Budget:
        """How much training its accuracy stands for."""
        return Budget(
            self.recipe, self.epochs, self.images, self.batch_size, self.seed, self.precision
        )

    def belongs_to(self, setting: Setting) -> bool:
        """Whether it is a run of this setting, whatever the budget."""
        return (self.model, self.options, self.data, self.after) == (
            setting.model,
            dict(setting.options),
            setting.data,
            setting.after,
        )


def read_results(folder: Path) -> list[Result]:
    """All results in a folder, the largest budgets first; none where there is no folder.

    Raises:
        BadInput: for a file that is no result.
    """
    results = read_all(folder, Result)
    return sorted(results, key=lambda r: (-r.epochs * r.images, str(r.budget)))


T = TypeVar("T")


def read_all(folder: Path, kind: type[T]) -> list[T]:
    """The JSON files of a folder in the order of their names; none where there is no folder.

    Raises:
        BadInput: for a file that is not of that kind.
    """
    results = []
    for path in sorted(folder.glob("*.json")):
        try:
            results.append(msgspec.json.decode(path.read_bytes(), type=kind))
        except (msgspec.DecodeError, OSError) as error:
            raise BadInput(f"{path} is no result of a run ({error}): remove it") from error
    return results


def find(results: Iterable[Result], setting: Setting) -> list[Result]:
    """The results of a setting, in their order."""
    return [result for result in results if result.belongs_to(setting)]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    Args:
        table: that asks for it.
        epochs, subset, batch_size, seed: replace those of the setting's recipe where not None.
        precision: "32" or "bf16".
        results: folder of the JSON files.
        work: folder of the runs' own folders, from which they resume.
        data_root: where data lie; see :func:`has8.load_data`.
        recipe: instead of the setting's.
    """

    table: str
    results: Path
    work: Path
    epochs: int | None = None
    subset: int | None = None
    batch_size: int | None = None
    seed: int | None = None
    precision: str = "32"
    data_root: Path | None = None
    recipe: str | None = None

    def config(self, setting: Setting, images: int) -> TrainConfig:
        """The recipe with the plan's values; a subset of all images is none."""
        given = {"epochs": self.epochs, "batch_size": self.batch_size, "seed": self.seed}
        changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        if self.subset is not None and self.subset < images:
            changes["subset"] = self.subset
        return replace(RECIPES[self.recipe or setting.recipe], **changes)

    def budget(self, setting: Setting, config: TrainConfig, images: int) -> Budget:
        """What the run's number will stand for."""
        return Budget(
            self.recipe or setting.recipe,
            config.epochs,
            config.subset or images,
            config.batch_size,
            config.seed,
            self.precision,
        )


@dataclass(frozen=True, slots=True)
class Run:
    """One run that is missing."""

    setting: Setting
    config: TrainConfig
    budget: Budget
    data: Data

    @classmethod
    def of(cls, setting: Setting, data: Data, plan: Plan) -> Run:
        """That of a setting on some data, by a plan.

        Raises:
            BadInput: if a value of the plan is out of range.
        """
        config = plan.config(setting, len(data.train))
        budget = plan.budget(setting, config, len(data.train))
        return cls(replace(setting, data=data.name), config, budget, data)

    def model(self, plan: Plan) -> Path:
        """The file that the trained model is in."""
        return plan.work / self.name / MODEL

    @property
    def name(self) -> str:
        """Of its folder and of its result: the setting, the data and the whole budget."""
        return self.named(self.setting.name)

    def named(self, setting: str) -> str:
        """The same of another setting, on the same data by the same budget."""
        b = self.budget
        return (
            f"{setting}-{self.data.name}-{b.recipe}-e{b.epochs}-n{b.images}"
            f"-b{b.batch_size}-s{b.seed}-{b.precision}"
        )


def missing_runs(
    settings: Sequence[Setting], plan: Plan, used: Callable[[Run], bool] = lambda run: False
) -> Iterator[Run]:
    """The runs that no result with the same setting and budget stands for, in order.

    One with a result is missing if its model is: if that is not in the folder of the runs, and
    is ``used``, or another missing run takes its artificial layers. The folder of results is read
    again before each, so that one that another process has finished meanwhile is not repeated.

    Args:
        settings: of the runs.
        plan: for all of them.
        used: whether a run's model is needed beside its result.

    Raises:
        BadInput: as :func:`planned_runs` does.
    """

    def missing(run: Run) -> bool:
        if all(r.budget != run.budget for r in find(read_results(plan.results), run.setting)):
            return True
        behind = (other for other in settings if other.after == run.setting.name)
        return not run.model(plan).exists() and (
            used(run) or any(missing(Run.of(other, run.data, plan)) for other in behind)
        )

    yield from filter(missing, planned_runs(settings, plan))


def planned_runs(settings: Iterable[Setting], plan: Plan) -> Iterator[Run]:
    """One run for each setting, in order. Each data set is loaded once.

    Raises:
        BadInput: if data cannot be had, or a value of the plan is out of range.
    """
    loaded: dict[str, Data] = {}
    for setting in settings:
        if setting.data not in loaded:
            loaded[setting.data] = load_data(setting.data, plan.data_root, preprocess="paper")
        data = loaded[setting.data]
        yield Run.of(setting, data, plan)


def perform(run: Run, plan: Plan, on_progress: Report | None = None) -> Result:
    """Train, going on from where an earlier attempt stopped, and write the result."""
    setting, work = run.setting, plan.work / run.name
    source = commit()
    options = {**recipe_options(run.budget.recipe, setting.model, run.data), **setting.options}
    model = new_model(setting.model, run.data, options, run.config.seed)
    if setting.after is not None:
        trained = plan.work / run.named(setting.after) / MODEL
        if not trained.exists():
            raise BadInput(
                f"{setting.name} takes the artificial layers of {setting.after}, and {trained} is "
                "not there: run both together, within the same budget"
            )
        keep_artificial(model, load_checkpoint(trained).model)
    if run.budget.recipe == liven.RECIPE:
        liven.liven(model, run.data, run.config)
    keep_pages()
    history = fit(
        model,
        run.data,
        run.config,
        hardware=Hardware(precision=plan.precision),
        out=work,
        on_progress=on_progress,
    )
    result = Result(
        table=plan.table,
        setting=setting.name,
        model=setting.model,
        options=dict(setting.options),
        data=run.data.name,
        **asdict(run.budget),
        accuracy=history.accuracy,
        seconds=round(history.seconds, 1),
        hardware=hardware("cuda" if torch.cuda.is_available() else "cpu"),
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
        commit=source,
        after=setting.after,
    )
    write_result(plan.results / f"{run.name}.json", asdict(result))
    return result


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result as indented JSON, whole or not at all."""
    content = msgspec.json.format(msgspec.json.encode(result))
    write_whole(path, lambda file: file.write(content + b"\n"))


def _seeds(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    if not all(seed.isdecimal() for seed in value.split(",")):
        raise click.ClickException(f"--seeds takes whole numbers, such as 0,1,2, not {value!r}")
    return tuple(map(int, value.split(",")))


seeds_option = click.option(
    "--seeds",
    default="0",
    show_default=True,
    metavar="N,...",
    callback=_seeds,
    help="One run for each.",
)
