"""The Keras callback that pulls kernels until they are as orthogonal as they should be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from orthwrap.errors import ValueFault
from orthwrap.live.compiled import step_made_anew
from orthwrap.report.goal_progress import GoalProgress
from orthwrap.rules.aims import Aim
from orthwrap.rules.patterns import patterns_of
from orthwrap.rules.words import share
from orthwrap.training.goal.controller import Course
from orthwrap.training.goal.pursuit import Pursued, Pursuit
from orthwrap.training.goal.task import task_of
from orthwrap.training.pull.pull_callback import pullable, take_over

_BATCH = 128  # samples of arrays that are looked at together


class Goal(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """Pulls the kernels that carry an orthwrap regularizer until they reach a goal.

        model = orthwrap.apply(model).model
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        goal = orthwrap.Goal("10x", validation=(x_val, y_val))
        model.fit(x, y, epochs=20, callbacks=[goal])
        goal.progress.ended, goal.progress.kernels, goal.progress.epochs

    Each kernel is pulled as `orthwrap.Pull` does, at a rate of its own that is set anew after each
    epoch. All go their way side by side, a step in each epoch: longer ones while the task stands
    well, none while it has lost more than the margin (the mean difference over the same samples,
    by more than its standard error), shorter ones after that. Training ends once the goal has held
    for two epochs, or where the margin is spent and not to be regained. Then the model has the
    weights of the most orthogonal epoch within the margin.

    Args:
        goal: `"10x"` (or `"÷10"`): each kernel's residual, the one that its scale drives, divided
            by 10, but never asked below 0.01; or `"residual=0.1"`.
        margin: what the task may lose: of accuracy and the like (default 0.005), or as a share of
            a loss or an error (default 0.05).
        validation: what it is held against: `(x, y)` or `(x, y, sample weights)`, or batches of
            those that come in the same order each time. None: nothing holds the task.
        target: as `orthwrap.Pull` takes it.
        exclude: as `orthwrap.Pull` takes it.

    Attributes:
        progress: `orthwrap.report.goal_progress.GoalProgress`: kernels, and what each epoch came
            to. The figure of the task is the first compiled metric that says which way is better,
            else the loss; of several outputs their weighted loss.

    Raises:
        ValueFault: no goal, or no margin. In `fit` as `orthwrap.Pull` does.
    """

    def __init__(
        self,
        goal: str | Aim = "10x",
        *,
        margin: float | None = None,
        validation: Any = None,
        target: Any = None,
        exclude: Any = (),
    ) -> None:
        super().__init__()
        self.goal = Aim.parse(goal)
        self._margin = None if margin is None else share.check("margin", margin)
        self._validation = validation
        self._target = None if target is None else patterns_of(target)
        self._exclude = patterns_of(exclude)
        self._pursuit: Pursuit | None = None
        self._kept: list[NDArray[Any]] | None = None
        self.progress = GoalProgress(str(self.goal), ())

    def start(self, model: Any, epochs: int, steps: int | None = None) -> None:
        """Measures the model as it is, and sets the pulls.

        In a training loop of one's own before steps are traced; then `epoch_done(model)` after
        each epoch, until it says that this was the last, and `stop(model)`.

        Args:
            epochs: at most.
            steps: of an epoch; None where that is not known.
        """
        self._stop_pulls()
        kernels = pullable(model, self._target, self._exclude)
        take_over(kernels, self)
        task = None
        if self._validation is not None:
            batches = lambda: _batches(self._validation)  # noqa: E731
            task = task_of(model, batches, self._margin)
        pursued = [Pursued(kernel) for kernel in kernels]
        self._pursuit = Pursuit(model, pursued, self.goal, task, Course(steps, epochs), owner=self)
        self._pursuit.begin()
        self.progress, self._kept = self._pursuit.progress, None

    def epoch_done(self, model: Any) -> bool:
        """Measures the model after an epoch and sets the next rates. True: it was the last."""
        if self._pursuit is None:
            raise ValueFault("start(model, epochs) comes before epoch_done(model)")
        done = self._pursuit.epoch_done(len(self.progress.epochs) + 1)
        self.progress = self._pursuit.progress
        if self.progress.best is done:
            self._kept = model.get_weights()
        return bool(self.progress.ended)

    def stop(self, model: Any) -> None:
        """Takes the pulls off; the model gets the weights of the epoch that is kept."""
        self._stop_pulls()
        if self._kept is not None:
            model.set_weights(self._kept)
            self._kept = None

    def _stop_pulls(self) -> None:
        if self._pursuit is not None:
            self._pursuit.stop()
        self._pursuit = None

    # What Keras calls

    def on_train_begin(self, logs: Any = None) -> None:
        params = self.params or {}
        with step_made_anew(self.model):
            self.start(self.model, params.get("epochs") or 1, params.get("steps"))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.epoch_done(self.model):
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        self.stop(self.model)


def _batches(validation: Any) -> Iterator[Any]:
    """(x, y) or (x, y, weights) in batches."""
    if isinstance(validation, keras.utils.PyDataset):
        yield from (validation[i] for i in range(len(validation)))
        return
    if not isinstance(validation, tuple):
        yield from validation
        return
    count = len(keras.tree.flatten(validation)[0])
    for start in range(0, count, _BATCH):
        yield keras.tree.map_structure(
            lambda a, start=start: np.asarray(a[start : start + _BATCH]), validation
        )
