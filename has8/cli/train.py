"""``has8 train``: its options; :mod:`has8.cli.jobs.train` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from has8.cli.boundary import do
from has8.cli.options import FOLDER, data_root_option, quantization_options
from has8.data.names import AUGMENTATIONS, data_names
from has8.training.hardware import ACCELERATORS, PRECISIONS
from has8.training.recipes import RECIPES, TrainConfig
from mapping.targets.schema import target_names


def _settings(config: TrainConfig) -> str:
    """A recipe in one line."""
    clip = "" if config.clip_norm is None else f", gradients clipped to {config.clip_norm:g}"
    return (
        f"{config.optimizer}, lr {config.lr:g}, weight decay {config.weight_decay:g}, schedule "
        f"{config.schedule}, batch {config.batch_size}, {config.epochs} epochs, label smoothing "
        f"{config.label_smoothing:g}, augment {config.augment}, seed {config.seed}{clip}"
    )


_EPILOG = "\n\n".join(f"Recipe {name}: {_settings(config)}." for name, config in RECIPES.items())


@click.command(epilog=_EPILOG)
@click.argument("model", required=False)
@click.option(
    "--from",
    "start",
    type=click.Path(path_type=Path),
    help="Go on from the weights of this model file; it takes the place of MODEL.",
)
@click.option(
    "--separate",
    type=click.Path(path_type=Path),
    help="Take MODEL's artificial layers from this file of a trained network that is all "
    "artificial, and train only the spiking ones (hnn models).",
)
@click.option(
    "--quantize",
    metavar="TARGET",
    help=f"Train --from's model as this chip would run it: {', '.join(target_names())}, or a "
    "YAML file.",
)
@quantization_options("search")
@click.option("--data", required=True, help=f"{', '.join(data_names())}, or a folder of images.")
@data_root_option
@click.option("--image-size", type=int, help="Resize images to so many pixels a side.")
@click.option(
    "--preprocess",
    metavar="NAME",
    help="How images in folders become squares: crop takes the centre square, paper squeezes all "
    "of the image, bicubic-0.875 takes the centre of that part.  [default: paper for the "
    "paper's recipes, else crop]",
)
@click.option(
    "--encoder",
    metavar="NAME",
    help="Learn the embeddings that this pretrained encoder makes of the images, such as "
    "efficientnet_lite0 (colanet only).",
)
@click.option(
    "--recipe",
    type=click.Choice(list(RECIPES)),
    help="All settings at once (see below); the options that follow change single ones.  "
    "[default: modern, with --from finetune]",
)
@click.option("--epochs", type=int, help="Passes over the data.")
@click.option("--batch-size", type=int, help="Images a step, over all devices.")
@click.option("--lr", type=float, help="Highest learning rate.")
@click.option("--weight-decay", type=float, help="Weight decay of the optimiser.")
@click.option("--label-smoothing", type=float, help="Probability spread over all classes.")
@click.option(
    "--augment",
    type=click.Choice(AUGMENTATIONS),
    help="Mirror images (flip), and shift them too (crop); resized is for ImageNet.",
)
@click.option("--seed", type=int, help="Seed of the weights, the order and the augmentation.")
@click.option("--subset", type=int, help="Train on so many images only.")
@click.option("--base", type=int, help="The model's option base: its width.")
@click.option(
    "--depth", type=int, help="The model's option depth: stages of has8 models, layers of others."
)
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other option of the model, as often as needed.",
)
@click.option(
    "--accelerator",
    type=click.Choice(ACCELERATORS),
    default="auto",
    show_default=True,
    help="What to compute on.",
)
@click.option("--devices", type=int, help="Devices a node.  [default: as launched, else 1]")
@click.option("--num-nodes", type=int, help="Nodes.  [default: as launched, else 1]")
@click.option(
    "--precision",
    type=click.Choice(list(PRECISIONS)),
    default="32",
    show_default=True,
    help="float32, or bfloat16 where that is safe.",
)
@click.option("--compile", "compiled", is_flag=True, help="Train through torch.compile.")
@click.option(
    "--out",
    type=FOLDER,
    help="Folder for the results.  [default: runs/MODEL-DATA, or runs/MODEL-TARGET-BITS-DATA]",
)
@click.option("--restart", is_flag=True, help="Start over instead of going on.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def train(**options: Any) -> None:
    """Train MODEL on a data set or on a folder of images.

    The result is OUT/model.pt, with one line for each epoch in OUT/metrics.csv and in
    TensorBoard's events. OUT/best.pt is the best epoch's model, selected on the held-out images.
    A command that was interrupted goes on where it stopped when it is given again. It also runs
    under torchrun and Slurm's srun.

    With --quantize, a trained model is fine-tuned as a chip would run it, spike by spike; has8-map
    then maps the result with the very integers that it was trained with.

    The model colanet learns by local rules instead, each image once: its options are rule, copies
    and any constant of the rule (docs/colanet.md), whose weights are fitted to the data unless one
    of them is given; --seed, --subset and those of data, place and output count, no others.

    \b
    has8 train has8_vgg --data digits --base 16 --depth 2 --option head=[64]
    has8 train has8_resnet_b32 --data photos/ --image-size 64 --recipe paper
    has8 train hnn_mlp --data mnist --recipe hnn --option split=2 --separate ann.pt
    has8 train colanet --data mnist --option copies=15 --option columns=20
    has8 train colanet --data photos/ --encoder efficientnet_lite0
    has8 train --quantize loihi --weight-bits 2 --from model.pt --data cifar10
    """
    do("train:run_train", options)
