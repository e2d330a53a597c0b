"""The options about training, which `apply` and `finetune` share, with one wording."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from orthwrap_cli.options import look_here


def _option(panel: str, *names: str, metavar: str | None = None, help: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel)


_DATA, _GOAL, _LAYERS = "Data", "What to optimise", "Layers that are trained"
_FACTOR, _KEPT = "The factor while training", "What is shown and kept"

# By the keyword of the verbs: type and option; the default is that it was not given.
OPTIONS: dict[str, tuple[Any, Any]] = {
    "validation": (
        str,
        _option(_DATA, metavar="SOURCE", help="Validate on this; what --data may be."),
    ),
    "validation_split": (
        float,
        _option(_DATA, metavar="SHARE", help="Hold out this share of --data instead, as 0.2."),
    ),
    "rescale": (
        str,
        _option(_DATA, metavar="NUMBER", help="Multiply the pixels of images with it: 1/255."),
    ),
    "preprocessing": (
        str,
        _option(
            _DATA,
            metavar="FAMILY",
            help="Preprocess images as this keras.applications family does: mobilenet_v2.",
        ),
    ),
    "image_size": (
        str,
        _option(_DATA, metavar="HxW", help="Resize images to it, where the model takes any size."),
    ),
    "epochs": (int, _option(_GOAL, help="Times through the data. Default: 5.")),
    "batch_size": (int, _option(_GOAL, help="Samples per step. Default: 32.")),
    "loss": (
        str,
        _option(
            _GOAL,
            metavar="NAME",
            help="A Keras loss. Default: the model's own, else by outputs and labels.",
        ),
    ),
    "optimizer": (
        str,
        _option(
            _GOAL, metavar="NAME", help="A Keras optimizer. Default: the model's own, else adam."
        ),
    ),
    "learning_rate": (
        float,
        _option(_GOAL, metavar="RATE", help="Default: the optimizer's own, else 1e-4."),
    ),
    "metric": (list[str], _option(_GOAL, metavar="NAME", help="A Keras metric. Repeatable.")),
    "distill": (
        bool,
        _option(_GOAL, "--distill", help="Learn the original's outputs; labels are not needed."),
    ),
    "temperature": (
        float,
        _option(_GOAL, metavar="T", help="What softens the outputs with --distill. Default: 2."),
    ),
    "seed": (int, _option(_GOAL, help="Makes training repeatable.")),
    "devices": (
        int,
        _option(_GOAL, metavar="N", help="Train on so many devices of this machine at once."),
    ),
    "freeze": (
        list[str],
        _option(_LAYERS, metavar="PATTERN", help="Do not train these layers. Repeatable."),
    ),
    "unfreeze": (
        list[str],
        _option(_LAYERS, metavar="PATTERN", help="Train these layers again. Repeatable."),
    ),
    "freeze_batchnorm": (
        bool,
        _option(
            _LAYERS, "--freeze-batchnorm", help="Train no BatchNormalization, nor its statistics."
        ),
    ),
    "batchnorm_momentum": (
        float,
        _option(
            _LAYERS,
            metavar="M",
            help="How slowly statistics follow in training: 0.9 where there are few steps.",
        ),
    ),
    "rho": (
        float,
        _option(
            _FACTOR,
            metavar="RHO",
            help="With --factor auto: gradient norm of the penalty over the task's. Default: 1.",
        ),
    ),
    "rho_over": (
        Literal["kernel", "all"],
        _option(_FACTOR, help="A factor for each kernel, or one for all. Default: kernel."),
    ),
    "schedule": (
        str,
        _option(
            _FACTOR,
            metavar="SCHEDULE",
            help="cosine:0.1, linear, 'warmup:3, cosine', '0:1, 20:1e-2, 50:0': what multiplies "
            "the factor.",
        ),
    ),
    "schedule_by": (
        Literal["epoch", "step"],
        _option(_FACTOR, help="What its numbers count. Default: epoch."),
    ),
    "keep": (
        Literal["best", "last"],
        _option(_KEPT, help="The epoch that is saved. Default: best, where one can validate."),
    ),
    "monitor": (
        str,
        _option(_KEPT, metavar="FIGURE", help="What says which is best. Default: val_task_loss."),
    ),
    "log": (Path, _option(_KEPT, metavar="FILE.csv", help="A line of figures for each epoch.")),
    "tensorboard": (
        Path,
        _option(_KEPT, metavar="DIR", help="Figures of each layer and epoch, for TensorBoard."),
    ),
    "checkpoint_dir": (
        Path,
        _option(_KEPT, metavar="DIR", help="Keep a checkpoint of each epoch, to go on from."),
    ),
    "resume": (
        bool,
        _option(_KEPT, "--resume", help="Go on from the last checkpoint in --checkpoint-dir."),
    ),
}

Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="SOURCE",
        help="Fine-tune on a .npz with x and y, a folder of class folders of images, or what "
        "package.module:function gives.",
        rich_help_panel=_DATA,
    ),
]


def with_training(function: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options above, in place of its parameter `training`."""
    signature = inspect.signature(function, eval_str=True)
    own = list(signature.parameters.values())
    at = next(i for i, p in enumerate(own) if p.name == "training")
    more = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if kind is bool else None,
            annotation=Annotated[kind if kind is bool else kind | None, option],
        )
        for name, (kind, option) in OPTIONS.items()
    ]
    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]

    @functools.wraps(function)
    def wrapped(**given: Any) -> None:
        training = {name: given.pop(name) for name in OPTIONS}
        named = (given["data"], training["validation"])
        if any(source is not None and ":" in source for source in named):
            look_here()
        repeats = training["seed"] is not None or training["checkpoint_dir"] is not None
        if repeats and "tensorflow" not in sys.modules:
            # A sum in another order is another number; TensorFlow reads this as it is loaded.
            os.environ.setdefault("TF_DETERMINISTIC_OPS", "1")
        function(**given, training=training)

    wrapped.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*keyword_only[:at], *more, *keyword_only[at + 1 :]]
    )
    return wrapped
