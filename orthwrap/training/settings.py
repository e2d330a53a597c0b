"""How to train: what the user may say of it, checked. NumPy alone; Keras is not needed."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, TypedDict

from orthwrap.errors import Faults, UsageError
from orthwrap.rules import words
from orthwrap.rules.aims import Aim
from orthwrap.rules.rule import SCHEDULE
from orthwrap.rules.words import Contradiction, Said, Word, documented, spoken, words_of
from orthwrap.text import listed

DEFAULT_LEARNING_RATE = 1e-4
DEFAULT_TEMPERATURE = 2.0

AIM = "The goal, with --data"
_DATA, _GOAL, _LAYERS = "Data", "What to optimise", "Layers that are trained"
_FACTOR, _KEPT = "The factor while training", "What is shown and kept"

GOAL = words.Kind(str, lambda name, value: Aim.parse(value))

# What is taken where nothing says how strong.
DEFAULT_GOAL = Aim(division=10.0)

# What no command and no file can give.
PYTHON_ALONE = words.Kind(None, words.several.check)


@documented()
class TrainingWords(TypedDict, total=False):
    """Keywords of `apply` and `finetune` that are about training; each is a long option too.

    Attributes:
        {words}
    """

    goal: Annotated[
        Any,
        Word(
            "How orthogonal each kernel is to become: 10x divides its residual by 10, residual=0.1 "
            "brings it there. Default, without a factor: 10x.",
            GOAL,
            None,
            AIM,
            metavar="Nx|residual=X",
            python="See `orthwrap.Goal`, which does the same in a `fit` of one's own.",
        ),
    ]
    task_margin: Annotated[
        float | None,
        Word(
            "What the task may lose for it: of accuracy, or a share of the loss. Default: 0.005, "
            "0.05 of a loss.",
            words.share,
            None,
            AIM,
            metavar="SHARE",
        ),
    ]
    pull: Annotated[
        float | None,
        Word(
            "Pull the kernels so hard after each step, instead of a penalty in the loss: 0.01.",
            words.positive,
            None,
            AIM,
            metavar="RATE",
            python="See `orthwrap.Pull`, which does the same in a `fit` of one's own.",
        ),
    ]
    validation: Annotated[
        Any,
        Word("Validate on this; what --data may be.", words.text, None, _DATA, metavar="SOURCE"),
    ]
    validation_split: Annotated[
        float | None,
        Word(
            "Hold out this share of --data instead, as 0.2.",
            words.between_0_and_1(0.2),
            None,
            _DATA,
            metavar="SHARE",
        ),
    ]
    rescale: Annotated[
        float | str | None,
        Word(
            "Multiply the pixels of images with it: 1/255.",
            words.text,
            None,
            _DATA,
            metavar="NUMBER",
        ),
    ]
    preprocessing: Annotated[
        str | None,
        Word(
            "Preprocess images as this keras.applications family does: mobilenet_v2.",
            words.text,
            None,
            _DATA,
            metavar="FAMILY",
        ),
    ]
    image_size: Annotated[
        Any,
        Word(
            "Resize images to it, where the model takes any size.",
            words.text,
            None,
            _DATA,
            metavar="HxW",
            python='Height and width, `(224, 224)` or `"224x224"`.',
        ),
    ]
    epochs: Annotated[
        int | None, Word("Times through the data. Default: 5.", words.whole(1), 5, _GOAL)
    ]
    batch_size: Annotated[
        int | None, Word("Samples per step. Default: 32.", words.whole(1), 32, _GOAL)
    ]
    steps_per_epoch: Annotated[
        int | None,
        Word(
            "End an epoch after so many steps: of an endless generator, say.",
            words.whole(1),
            None,
            _GOAL,
            python="The next epoch goes on where it ended; arrays and folders are shuffled anew.",
        ),
    ]
    loss: Annotated[
        Any,
        Word(
            "A Keras loss. Default: the model's own, else by outputs and labels.",
            words.anything,
            None,
            _GOAL,
            metavar="NAME",
            python="A name or an object.",
        ),
    ]
    optimizer: Annotated[
        Any,
        Word(
            "A Keras optimizer. Default: the model's own, else adam.",
            words.anything,
            None,
            _GOAL,
            metavar="NAME",
            python="A name or an object.",
        ),
    ]
    learning_rate: Annotated[
        float | None,
        Word(
            "Default: the optimizer's own, else 1e-4.", words.positive, None, _GOAL, metavar="RATE"
        ),
    ]
    metric: Annotated[
        Any,
        Word(
            "A Keras metric. Repeatable.",
            words.several,
            (),
            _GOAL,
            metavar="NAME",
            python="One or several, names or objects.",
        ),
    ]
    distill: Annotated[
        bool, Word("Learn the original's outputs; labels are not needed.", words.flag, False, _GOAL)
    ]
    temperature: Annotated[
        float | None,
        Word(
            "What softens the outputs with --distill. Default: 2.",
            words.positive,
            DEFAULT_TEMPERATURE,
            _GOAL,
            metavar="T",
        ),
    ]
    seed: Annotated[
        int | None,
        Word("Makes training repeatable.", words.whole(0), None, _GOAL, python="None draws one."),
    ]
    devices: Annotated[
        int | None,
        Word(
            "Train on so many devices of this machine at once.",
            words.whole(1),
            None,
            _GOAL,
            metavar="N",
            python="None does not distribute.",
        ),
    ]
    freeze: Annotated[
        Any,
        Word(
            "Do not train these layers. Repeatable.", words.several, (), _LAYERS, metavar="PATTERN"
        ),
    ]
    unfreeze: Annotated[
        Any,
        Word(
            "Train these layers again. Repeatable.",
            words.several,
            (),
            _LAYERS,
            metavar="PATTERN",
            python="What freeze names too is trained.",
        ),
    ]
    freeze_batchnorm: Annotated[
        bool, Word("Train no BatchNormalization, nor its statistics.", words.flag, False, _LAYERS)
    ]
    batchnorm_momentum: Annotated[
        float | None,
        Word(
            "How slowly statistics follow in training: 0.9 where there are few steps.",
            words.between_0_and_1(0.9),
            None,
            _LAYERS,
            metavar="M",
            python="0.9 follows within some ten steps, Keras's 0.99 within some hundred.",
        ),
    ]
    rho: Annotated[
        float | None,
        Word(
            "With --factor auto: gradient norm of the penalty over the task's. Default: 1.",
            words.positive,
            1.0,
            _FACTOR,
            metavar="RHO",
        ),
    ]
    rho_over: Annotated[
        str | None,
        Word(
            "A factor for each kernel, or one for all. Default: kernel.",
            words.choice("kernel", "all"),
            "kernel",
            _FACTOR,
        ),
    ]
    schedule: Annotated[
        Any,
        Word(
            "cosine:0.1, linear, 'warmup:3, cosine', '0:1, 20:1e-2, 50:0': what multiplies the "
            "factor.",
            SCHEDULE,
            None,
            _FACTOR,
            metavar="SCHEDULE",
            python="See `orthwrap.FactorSchedule`.",
        ),
    ]
    schedule_by: Annotated[
        str | None,
        Word(
            "What its numbers count. Default: epoch.",
            words.choice("epoch", "step"),
            "epoch",
            _FACTOR,
        ),
    ]
    keep: Annotated[
        str | None,
        Word(
            "The epoch that is saved: the most orthogonal one within the task margin (best), the "
            "best by --monitor (best-task), or the last. Default: best, where one can validate.",
            words.choice("best", "best-task", "last"),
            None,
            _KEPT,
        ),
    ]
    monitor: Annotated[
        str | None,
        Word(
            "What says which is best for the task. Default: val_task_loss.",
            words.text,
            None,
            _KEPT,
            metavar="FIGURE",
        ),
    ]
    control: Annotated[
        bool,
        Word(
            "Also train equally without penalty and pull, and show both beside the original.",
            words.flag,
            False,
            _KEPT,
        ),
    ]
    repeats: Annotated[
        int | None,
        Word(
            "Train with so many seeds and show the spread; the first one's model is written.",
            words.whole(1),
            1,
            _KEPT,
            metavar="N",
        ),
    ]
    log: Annotated[
        str | os.PathLike[str] | None,
        Word("A line of figures for each epoch.", words.path, None, _KEPT, metavar="FILE.csv"),
    ]
    tensorboard: Annotated[
        str | os.PathLike[str] | None,
        Word(
            "Figures of each layer and epoch, for TensorBoard.",
            words.path,
            None,
            _KEPT,
            metavar="DIR",
        ),
    ]
    checkpoint_dir: Annotated[
        str | os.PathLike[str] | None,
        Word(
            "Keep a checkpoint of each epoch, to go on from.",
            words.path,
            None,
            _KEPT,
            metavar="DIR",
        ),
    ]
    resume: Annotated[
        bool, Word("Go on from the last checkpoint in --checkpoint-dir.", words.flag, False, _KEPT)
    ]
    callbacks: Annotated[
        Sequence[Any] | None, Word("Further Keras callbacks.", PYTHON_ALONE, (), _KEPT)
    ]


_EXCLUSIVE = (
    ("validation", "validation_split"),
    ("rescale", "preprocessing"),
    ("freeze_batchnorm", "batchnorm_momentum"),
)


@documented(TrainingWords)
class Settings(Said):
    """The training words, checked.

    Attributes:
        {words}
    """

    TABLE = TrainingWords

    @property
    def has_others(self) -> bool:
        """Whether there are runs beside the first one: a control, or other seeds."""
        return bool(self.control or (self.repeats or 1) > 1)

    def contradictions(self, given: Mapping[str, Any]) -> Iterator[Contradiction]:
        for one, other in _EXCLUSIVE:
            if _is_given(one, given.get(one)) and _is_given(other, given.get(other)):
                why = f"{spoken(one)} and {spoken(other)} exclude each other: give one"
                yield (one, other), why
        if self.resume and self.checkpoint_dir is None:
            why = "resume needs a checkpoint dir: the folder to go on from"
            yield ("resume", "checkpoint_dir"), why
        if self.distill and self.loss is not None:
            yield ("distill", "loss"), "distill has a loss of its own: leave loss out"
        if self.goal is not None and self.pull is not None:
            yield ("goal", "pull"), "a goal finds the pull by itself: give goal or pull"
        if self.keep in ("best", "last") and self.monitor is not None:
            why = f"monitor is about keep best-task, not {self.keep}: leave one out"
            yield ("keep", "monitor"), why
        if self.callbacks and self.has_others:
            why = "callbacks are of one run: leave them out, or control and repeats"
            yield ("callbacks", "control", "repeats"), why


def settings_of(
    keywords: Mapping[str, Any], *, has_data: bool, others: Iterable[str] = ()
) -> Settings | None:
    """The settings of a verb's keywords; None where there is nothing to train on.

    Args:
        keywords: about training, the verb has found.
        has_data: whether there is something to train on.
        others: the verb's own keywords, one of which may have been meant.

    Raises:
        TypeError: a keyword that there is not.
        UsageError: words about training without data, or that contradict each other.
        ValueFault: a value out of range.
    """
    known = list(words_of(TrainingWords))
    for name in keywords:
        if name not in known:
            raise TypeError(f"unexpected keyword {name!r}; {_meant(name, [*known, *others])}")
    given = {name: value for name, value in keywords.items() if _is_given(name, value)}
    faults = Faults()
    if given and not has_data:
        said, are = listed([spoken(name) for name in given]), "is" if len(given) == 1 else "are"
        faults.add(UsageError(f"{said} {are} about training, which needs data"))
    settings = faults.of(Settings, **given)
    faults.raise_all()
    return settings if has_data else None


# What other libraries call them.
_ALIASES = {
    "validation_data": "validation",
    "verbose": "progress",
    "lr": "learning_rate",
    "batch": "batch_size",
    "lambda_": "factor",
}


def _meant(name: str, known: Sequence[str]) -> str:
    alias = _ALIASES.get(name.lower())
    if alias in known:
        return f"did you mean {alias!r}?"
    flat = {word.replace("_", ""): word for word in known}
    close = difflib.get_close_matches(name.lower().replace("_", ""), flat, 2, 0.6)
    if not close:
        return "help(orthwrap.TrainingWords) lists those about training"
    return f"did you mean {' or '.join(repr(flat[c]) for c in close)}?"


def _is_given(name: str, value: Any) -> bool:
    """Commands hand on every option, with None, False or no values where it was not used."""
    if words_of(TrainingWords)[name].kind is words.flag:
        return bool(value)
    return value is not None and not (isinstance(value, (list, tuple)) and not value)
