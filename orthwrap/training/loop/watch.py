"""One run of `fit`: what is shown, logged and kept of it, step by step and epoch by epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from orthwrap.errors import FileFault, ValueFault
from orthwrap.live.compiled import inner_of
from orthwrap.live.live_store import regularizers_of
from orthwrap.regularizers import Attached, OrthogonalityRegularizer
from orthwrap.regularizers.clock import without_counts
from orthwrap.regularizers.multiplier import MULTIPLIER, RATES
from orthwrap.report.goal_progress import GoalProgress
from orthwrap.stores.replacing import TextOutput
from orthwrap.training.loop.checkpoints import CheckpointFolder, State
from orthwrap.training.loop.interrupts import Interrupts, raise_swallowed
from orthwrap.training.loop.logs import Board, csv_of
from orthwrap.training.loop.losses import without_unused
from orthwrap.training.loop.monitor import is_lower_better
from orthwrap.training.settings import Settings

_EXPLODED = 1e4  # times what loss and penalty were before training
_LOST, _DROWNED = 2.0, 1e6  # times what the task loss was, and times what it is
_LOWER_FACTOR = "try a lower factor or learning rate"

Snapshot = dict[str, list[NDArray[Any]]]


@dataclass
class Outcome:
    """How far a run came.

    Attributes:
        epoch: epochs that are done.
        step: steps that are done in the epoch after them.
        history: the figures of each epoch.
        fault: why it stopped before its time; "" where it did not.
        advice: what to do about that.
        interrupted: the user asked it to stop.
        best: the best epoch and its figure.
        kept: the epoch whose weights the model has at the end; None where it is that of the
            step at which the run was interrupted, 0 where none was good.
    """

    epoch: int = 0
    step: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)
    fault: str = ""
    advice: str = ""
    interrupted: bool = False
    best: tuple[int, float] | None = None
    kept: int | None = 0

    @property
    def place(self) -> str:
        """In words."""
        if self.step:
            return f"in epoch {self.epoch + 1}, after step {self.step}"
        return f"after epoch {self.epoch}" if self.epoch else "before the first step"


class Pursuing(Protocol):
    """Who drives the kernels; `orthwrap.training.goal.pursuit` says what the methods do."""

    @property
    def progress(self) -> GoalProgress: ...
    @property
    def state(self) -> dict[str, Any]: ...
    @property
    def arrays(self) -> list[NDArray[Any]]: ...
    def begin(
        self, state: Mapping[str, Any] | None = None, arrays: Sequence[NDArray[Any]] = ()
    ) -> None: ...
    def epoch_done(self, epoch: int) -> object: ...


class Run(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """The callback that sees to everything but the training itself.

    Args:
        settings: what to keep, log and monitor.
        state: where the run stands, as a checkpoint tells it; its history is added to.
        steps: of an epoch; None where that is not known before its end.
        validate: the figures on validation data; None where there is none.
        folder: for checkpoints, or None.
        log: where a line for each epoch goes, or None.
        progress: who shows it, or None.
        interrupts: whether the user asked to stop.
        pursuit: how far the kernels come, and how hard they are pulled; None where none is driven.
        warmup: epochs, of which none is kept as the most orthogonal one.
    """

    def __init__(
        self,
        settings: Settings,
        state: State,
        steps: int | None,
        validate: Callable[[], Mapping[str, float]] | None,
        folder: CheckpointFolder | None,
        log: TextOutput | None,
        progress: Any,
        interrupts: Interrupts,
        pursuit: Pursuing | None = None,
        warmup: int = 0,
    ) -> None:
        super().__init__()
        self._warmup = warmup
        self._pursuit = pursuit
        self._settings = settings
        self._state = state
        self._steps = steps
        self._validate = validate
        self._folder = folder
        self._log = log
        self._progress = progress
        self._interrupts = interrupts
        self._board = None if settings.tensorboard is None else Board(settings.tensorboard)
        self.keep = _kept_by(settings, validate is not None, pursuit)
        self._keeps_best = self.keep != "last"
        self._monitor = settings.monitor or ("val_task_loss" if validate else "task_loss")
        self._first = {"loss": 0.0, "task_loss": 0.0, "penalty": 0.0}  # before training
        self._kept: Snapshot | None = None
        self._factors: list[float] = []  # of each regularizer, before any schedule moves it
        self._metrics: list[NDArray[Any]] | None = None  # of the epoch that is gone on with
        self._random: list[NDArray[Any]] = []
        self._skipped = state.step
        self._course: dict[int, dict[str, float]] = {}  # how each epoch went, beside its figures
        self._began = 0.0
        self._raw: list[NDArray[Any]] = []  # weights whose averages `fit` puts in their place
        history = {k: list(v) for k, v in state.history.items()}
        self.outcome = Outcome(state.epoch, state.step, history, best=state.best)

    # Going on and ending

    def begin(self, before: Mapping[str, float]) -> None:
        """The run starts from here.

        Args:
            before: the figures of the model as it is, at the factors before any schedule.
        """
        self._first |= {name: before[name] for name in self._first if name in before}
        self._factors = [r.factor for r in regularizers_in(self.model)]
        if self._pursuit is not None and self._state.goal is None:
            self._pursuit.begin()
        out = self.outcome
        if self._board is not None and not (out.epoch or out.step):
            self._board.epoch(0, {}, self.model)

    def restore(self) -> None:
        """The model, optimizer and counts as the last checkpoint has them."""
        assert self._folder is not None
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        snapshot = self._folder.read()
        best = self.outcome.best
        kept = snapshot if best is None else self._folder.read_best(best[0])
        held = regularizers_in(self.model)
        self._check_fits(snapshot, kept, held)
        self._metrics = snapshot.pop("metrics")
        self._random = snapshot.pop("random")
        goal = snapshot.pop("goal")
        kept.pop("goal", None)
        if self._pursuit is not None and self._state.goal is not None:
            try:
                self._pursuit.begin(self._state.goal, goal)
            except (KeyError, TypeError, ValueError) as e:
                raise self._broken() from e
        _assign(self.model, snapshot)
        for regularizer, state in zip(held, self._state.regularizers, strict=True):
            if isinstance(regularizer, OrthogonalityRegularizer):
                regularizer.restore(state)
            own = replace(regularizer.attachment, factor=state["factor"])
            regularizer.attachment = own
        self._kept = kept  # what a fault soon after leaves
        self._factors = [r.factor for r in held]

    def _check_fits(self, snapshot: Snapshot, kept: Snapshot, held: Sequence[Any]) -> None:
        """FileFault, before anything is changed, where a checkpoint is not of this model."""
        assert self._folder is not None
        expected = _held(self.model)
        fits = [
            _is_like(found[group], expected[group])
            for found in (snapshot, kept)
            for group in expected
        ]
        if self._skipped:
            fits.append(_is_like(snapshot["metrics"], self.model.metrics_variables))
        states = self._state.regularizers
        fits.append(len(held) == len(states))
        for regularizer, state in zip(held, states, strict=False):
            fits.append("seed" in state or not isinstance(regularizer, OrthogonalityRegularizer))
        if not all(fits) or not _is_random_state(snapshot["random"]):
            raise self._broken()

    def _broken(self) -> FileFault:
        assert self._folder is not None
        return FileFault(
            f"the checkpoint in {self._folder.path} is broken: its arrays are not those of this "
            "model; put a sound copy in its place, or start again in another folder"
        )

    def finish(self) -> None:
        """The model as the epoch that is kept left it."""
        if self._board is not None:
            self._board.close()
        out = self.outcome
        out.kept = None if out.step else out.epoch
        if out.fault and self._kept is None:
            out.kept = 0
        is_best = self._keeps_best and out.best is not None
        if self._kept is not None and (is_best or out.fault):
            _assign(self.model, self._kept)
            out.kept = out.best[0] if is_best and out.best else out.epoch
        if averages(self.model) and self.model.optimizer.built:
            trained = self.model.trainable_variables
            self.model.optimizer.finalize_variable_values(trained)
            # On JAX both would hold one buffer, which the next step gives away.
            for variable, value in zip(trained, _arrays(trained), strict=True):
                variable.assign(value)

    # What Keras calls

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._began = time.monotonic()
        if self._metrics and self._skipped:  # an epoch's figures are of all its steps
            for variable, value in zip(self.model.metrics_variables, self._metrics, strict=True):
                variable.assign(value)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._random:  # not before: PyTorch's loaders draw from it as they are made
            _set_random_state(self._random)
            self._random = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        raise_swallowed()  # of several processes, which end at once and so have no `Interrupts`
        out = self.outcome
        out.step = batch + 1 + self._skipped
        values = without_unused(self.model, _floats(logs or {}))
        out.fault, out.advice = self._fault_of(values)
        if self._progress is not None:
            self._progress.step(out.epoch, out.step, values)
        is_last = out.step == self._steps
        if out.fault or (self._interrupts.asked and not is_last):
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        # Averages are for the end of the run, which may have several calls of `fit`.
        for variable, value in zip(self.model.trainable_variables, self._raw, strict=False):
            variable.assign(value)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        out = self.outcome
        if averages(self.model):
            self._raw = _arrays(self.model.trainable_variables)
        if out.fault:
            return
        is_whole = self._steps is None or out.step >= self._steps
        if self._interrupts.asked and not (is_whole and self._steps is not None):
            out.interrupted = True
            self._write()
            return
        values = without_unused(self.model, _floats(logs or {}))
        if self._validate is not None:
            values |= {f"val_{name}": value for name, value in self._validate().items()}
            logs.update(values)  # for the callbacks after this one
        out.fault, out.advice = self._fault_of_epoch(values)
        if self._pursuit is not None and not out.fault:
            self._pursuit.epoch_done(epoch + 1)
            out.fault, out.advice = self._fault_of_kernels()
        if out.fault:
            self.model.stop_training = True
            return
        out.epoch, out.step, self._skipped = epoch + 1, 0, 0
        for name, value in values.items():
            out.history.setdefault(name, []).append(value)
        went = self._course[out.epoch] = self._how_it_went()
        is_better = self._is_better(values)
        if is_better or not self._keeps_best:
            self._kept = _snapshot(self.model)
        if self._log is not None:
            self._log.write(csv_of(out.history, self._course))
        if self._board is not None:
            self._board.epoch(out.epoch, values | went, self.model)
        self._write(self._kept if is_better and self._keeps_best else None)
        if self._progress is not None:
            self._progress.epoch(epoch, values | went | self._came_to())
        self._end_where_asked()

    def _end_where_asked(self) -> None:
        """The last epoch is this one where the goal is reached, or the user asked to stop."""
        if self._pursuit is not None and self._pursuit.progress.ended:
            self.model.stop_training = True
        elif self._interrupts.asked:
            self.outcome.interrupted = self.outcome.epoch < self._settings.epochs
            self.model.stop_training = True

    def _came_to(self) -> dict[str, float]:
        """How far the epoch has brought the kernels that are pulled."""
        progress = None if self._pursuit is None else self._pursuit.progress
        if progress is None or all(rate is None for rate in progress.epochs[-1].rates):
            return {}
        least = progress.least_division(progress.epochs[-1])
        return {} if least is None else {"least_division": least}

    def _how_it_went(self) -> dict[str, float]:
        """Factor or factors, learning rate and seconds of the epoch that ends."""
        held = regularizers_in(self.model)
        factors = [r.factor for r in held if not getattr(r, "is_pulled", False)]
        went: dict[str, float] = {}
        if factors:
            low, high = min(factors), max(factors)
            is_one = len(set(self._factors)) == 1
            went = {"factor": high} if is_one else {"factor_min": low, "factor_max": high}
        rate = keras.ops.convert_to_numpy(inner_of(self.model.optimizer).learning_rate)
        went["learning_rate"] = float(rate)
        return went | {"seconds": time.monotonic() - self._began}

    def _fault_of(self, values: Mapping[str, float]) -> tuple[str, str]:
        """Why training cannot go on, and what to do about it; "" where it can."""
        out = self.outcome
        at = f"in epoch {out.epoch + 1}, step {out.step}"
        loss, penalty = values.get("loss", 0.0), values.get("penalty", 0.0)
        if not math.isfinite(loss):
            return f"the loss became {loss} {at}", "try a lower learning rate or factor"
        return self._exploded(penalty, at)

    def _exploded(self, penalty: float, at: str) -> tuple[str, str]:
        before = self._first["penalty"]
        if penalty > _EXPLODED * max(abs(self._first["loss"]), abs(before), 1e-3):
            return f"the penalty exploded {at}, from {before:.3g} to {penalty:.3g}", _LOWER_FACTOR
        return "", ""

    def _fault_of_epoch(self, values: Mapping[str, float]) -> tuple[str, str]:
        """The same of what the last step of an epoch has left, which no further step shows."""
        at = f"after epoch {self.outcome.epoch + 1}"
        for name in ("val_loss", "val_task_loss", "val_penalty"):
            if not math.isfinite(values.get(name, 0.0)):
                word = name.replace("val_", "").replace("_", " ")
                what = f"the {word} on validation data became {values[name]} {at}"
                return what, "try a lower learning rate or factor"
        for variable in self.model.trainable_variables:
            if not np.all(np.isfinite(keras.ops.convert_to_numpy(variable).astype("float32"))):
                what = f"weights became NaN or infinite {at}, first {variable.path}"
                return what, "try a lower learning rate or factor"
        fault = self._exploded(values.get("val_penalty", 0.0), at)
        phase = "val_" if "val_task_loss" in values else ""
        task, penalty = (values.get(f"{phase}{name}", 0.0) for name in ("task_loss", "penalty"))
        first = self._first["task_loss"]
        if not fault[0] and task > _LOST * first > 0 and penalty > _DROWNED * task:
            fault = (
                f"the task drowned {at}: its loss went from {first:.3g} to {task:.3g} beside a "
                f"penalty of {penalty:.3g}",
                _LOWER_FACTOR,
            )
        return fault

    def _fault_of_kernels(self) -> tuple[str, str]:
        """The same where the kernels tell: a residual goes as the root of a penalty.

        A pull brings them back from anywhere.
        """
        assert self._pursuit is not None
        progress = self._pursuit.progress
        for kernel, now in zip(progress.kernels, progress.epochs[-1].residuals, strict=True):
            limit = math.sqrt(_EXPLODED) * max(kernel.start, 1.0)
            if not kernel.is_pulled and math.isfinite(limit) and not now <= limit:
                what = f"the residual of {kernel.place} exploded after epoch "
                what += f"{self.outcome.epoch + 1}, from {kernel.start:.3g} to {now:.3g}"
                return what, _LOWER_FACTOR
        return "", ""

    def _is_better(self, values: Mapping[str, float]) -> bool:
        """Notes the epoch if it is the best so far."""
        if not self._keeps_best:
            return False
        if self.keep == "best":
            return self._is_nearer()
        value = values.get(self._monitor)
        if value is None:
            raise ValueFault(
                f"monitor {self._monitor!r} is none of the figures; there are: {', '.join(values)}"
            )
        if not math.isfinite(value):
            return False
        best = self.outcome.best
        is_lower = is_lower_better(self.model, self._monitor)
        if best is not None and not (value < best[1] if is_lower else value > best[1]):
            return False
        self.outcome.best = (self.outcome.epoch, value)
        return True

    def _is_nearer(self) -> bool:
        """Notes the epoch if it is the most orthogonal so far, within the task's margin."""
        assert self._pursuit is not None
        progress, best = self._pursuit.progress, self.outcome.best
        now = progress.epochs[-1]
        kept = None if best is None else progress.at(best[0])
        # One of a warm-up gives way to whatever comes after it.
        if kept is not None and kept.epoch > self._warmup and not progress.is_better(now, kept):
            return False
        self.outcome.best = (now.epoch, progress.distance(now))
        return True

    def _write(self, best: Snapshot | None = None) -> None:
        if self._folder is None:
            return
        out = self.outcome
        state = replace(
            self._state,
            epoch=out.epoch,
            step=out.step,
            history=out.history,
            regularizers=[
                {"factor": factor, **(getattr(r, "moment", {}))}
                for r, factor in zip(regularizers_in(self.model), self._factors, strict=True)
            ],
            best=out.best,
            goal=None if self._pursuit is None else self._pursuit.state,
        )
        snapshot = _snapshot(self.model)
        snapshot["metrics"] = _arrays(self.model.metrics_variables)
        snapshot["random"] = _random_state()
        snapshot["goal"] = [] if self._pursuit is None else self._pursuit.arrays
        self._folder.write(state, snapshot, best)


def _kept_by(settings: Settings, validates: bool, pursuit: Pursuing | None) -> str:
    """What the epoch that is kept is chosen by."""
    keep = settings.keep
    if keep is None:
        has_goal = pursuit is not None and pursuit.progress.goal is not None
        keep = "best" if validates or has_goal else "last"
        keep = "best-task" if settings.monitor is not None else keep
    return "best-task" if keep == "best" and pursuit is None else keep


def averages(model: Any) -> bool:
    """Whether the optimizer averages the weights over steps (`use_ema`)."""
    return bool(getattr(inner_of(model.optimizer), "use_ema", False))


def _floats(logs: Mapping[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in logs.items() if np.ndim(v) == 0}


def is_ours(regularizer: Any) -> bool:
    return isinstance(regularizer, (OrthogonalityRegularizer, Attached))


def regularizers_in(model: Any) -> list[Any]:
    """Our regularizers, each once, in the model's order."""
    held = (r for _, r in regularizers_of(model) if is_ours(r))
    return list({id(r): r for r in held}.values())


def _arrays(variables: Sequence[Any]) -> list[NDArray[Any]]:
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def _is_like(arrays: Sequence[NDArray[Any]], variables: Sequence[Any]) -> bool:
    """Whether arrays have the shapes and types of variables."""
    if len(arrays) != len(variables):
        return False
    now = (np.asarray(keras.ops.convert_to_numpy(v)) for v in variables)
    pairs = zip(arrays, now, strict=True)
    return all((a.shape, a.dtype) == (b.shape, b.dtype) for a, b in pairs)


def _random_state() -> list[NDArray[Any]]:
    """Of PyTorch itself, which Keras's dropout draws from there; elsewhere models hold theirs."""
    if keras.backend.backend() != "torch":
        return []
    import torch

    return [torch.get_rng_state().numpy()]


def _is_random_state(state: Sequence[NDArray[Any]]) -> bool:
    """Whether PyTorch takes it, where Keras draws from there."""
    if not state or keras.backend.backend() != "torch":
        return True
    import torch

    now = torch.get_rng_state()
    try:
        torch.set_rng_state(torch.from_numpy(state[0].copy()))
    except (RuntimeError, TypeError):
        return False
    finally:
        torch.set_rng_state(now)
    return True


def _set_random_state(state: Sequence[NDArray[Any]]) -> None:
    if state and keras.backend.backend() == "torch":
        import torch

        torch.set_rng_state(torch.from_numpy(state[0].copy()))


def _held(model: Any) -> dict[str, list[Any]]:
    """The variables of a model and its optimizer, but for what is added while they are trained."""
    own = [v for v in without_counts(model.variables) if v.name != MULTIPLIER]
    return {"model": own, "optimizer": [v for v in model.optimizer.variables if v.name != RATES]}


def _snapshot(model: Any) -> Snapshot:
    return {group: _arrays(variables) for group, variables in _held(model).items()}


def _assign(model: Any, snapshot: Snapshot) -> None:
    for group, variables in _held(model).items():
        for variable, value in zip(variables, snapshot[group], strict=True):
            variable.assign(value)
