"""The part of ``has8 train`` that learns by local rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from has8.cli.progress import stages
from has8.colanet import RULES, Rule
from has8.data import Data
from has8.errors import BadInput
from has8.models.pretrained import Encoder
from has8.training.local import Learned, learn

LOCAL = "colanet"
"""The model that does."""
WEIGHTS = {"lowest", "highest", "resource", "anti_hebb", "dopamine", "active"}
"""Constants with which a user says how large weights are: nothing is fitted to the data then."""


def refuse(options: Mapping[str, Any]) -> None:
    """Refuse what training by gradients takes; None stands for what is not given.

    Raises:
        BadInput: for the first option that is given.
    """
    for name, value in options.items():
        if value is not None:
            raise BadInput(
                f"{LOCAL} learns by local rules, each image once: leave out "
                f"--{ {'start': 'from'}.get(name, name).replace('_', '-') }"
            )


def learn_locally(
    data: Data,
    options: Mapping[str, Any],
    out: Path,
    seed: int,
    subset: int | None,
    encoder: Encoder | None,
    *,
    resume: bool,
    quiet: bool,
) -> Learned:
    """Learn with the rule that ``--option`` asks for, and show how far it is.

    Raises:
        BadInput: for an option that no rule has.
    """
    asked, default = dict(options), "mnist" if encoder is None else "embedding"
    rule, copies = RULES.get(asked.pop("rule", default)), asked.pop("copies", 10)
    known = [field.name for field in fields(Rule)]
    for name in asked:
        if name not in known:
            raise BadInput(
                f"{LOCAL} has no option {name!r}; its options are rule, copies, {', '.join(known)}"
            )
    with stages(quiet) as begin:
        return learn(
            data,
            replace(rule, **asked),
            out=out,
            copies=copies,
            seed=seed,
            subset=subset,
            encoder=encoder,
            fit=not WEIGHTS & asked.keys(),
            resume=resume,
            on_progress=begin(f"learning {data.name}"),
        )
