"""Fine-tuning a model that carries regularizers: compile, fit, and figures before and after."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, Protocol

import keras
import numpy as np

from orthwrap.data import Data
from orthwrap.errors import OrthwrapError
from orthwrap.records import Training
from orthwrap.regularizers import OrthogonalityRegularizer
from orthwrap.stores.live import regularizers_of
from orthwrap.training.compiling import compile_model, loss_names
from orthwrap.training.losses import split_losses
from orthwrap.training.settings import Settings


class Progress(Protocol):
    """Somebody who shows how training goes."""

    def start(self, choices: tuple[str, ...], epochs: int, steps: int) -> None: ...

    def step(self, epoch: int, step: int, logs: Mapping[str, float]) -> None: ...

    def epoch(self, epoch: int, logs: Mapping[str, float]) -> None: ...

    def stop(self) -> None: ...


def finetune(
    model: Any,
    data: Data,
    settings: Settings,
    progress: Progress | None = None,
    factors: Mapping[str, float] | None = None,
) -> Training:
    """Trains `model` as it is, regularizers and all.

    Raises:
        ValueFault: labels that fit no loss, or lie outside the classes.
        OrthwrapError: the loss became NaN or infinite; the model is then no longer good.
    """
    if settings.seed is not None:
        keras.utils.set_random_seed(settings.seed)
        _reseed(model, settings.seed)
    choices = compile_model(model, data, settings)
    seed = settings.seed
    if seed is None:
        seed = int(np.random.default_rng().integers(2**32))
    size = settings.batch_size
    steps = data.steps(size)
    if progress is not None:
        progress.start(choices, settings.epochs, steps or 0)
    watcher = _Watcher(progress)
    try:
        with split_losses(model), warnings.catch_warnings():
            # Keras warns of sizes and the like on paths the user did not choose.
            warnings.simplefilter("ignore")

            def evaluate() -> dict[str, float]:
                logs = model.evaluate(data.evaluation(size), verbose=0, return_dict=True)
                return _floats(logs)

            before = evaluate()
            history = model.fit(
                data.training(size, seed, epochs=settings.epochs),
                validation_data=data.validation(size),
                epochs=settings.epochs,
                steps_per_epoch=steps,
                shuffle=False,
                callbacks=[watcher],
                verbose=0,
            )
            if watcher.fault is not None:
                raise OrthwrapError(watcher.fault)
            after = evaluate()
    except OrthwrapError:
        raise
    except Exception as e:  # the model's own loss or metric may be anyone's
        fault = data.explain(e)
        if fault is not None:
            raise fault from e
        raise OrthwrapError(
            f"training failed ({_gist(e)}): check that y is what the model's loss "
            f"({loss_names(model.loss)}) takes"
        ) from e
    finally:
        if progress is not None:
            progress.stop()
    return Training(
        epochs=settings.epochs,
        factors=dict(factors or {}),
        history={k: tuple(float(v) for v in values) for k, values in history.history.items()},
        metrics_before=before,
        metrics_after=after,
        choices=choices,
    )


def _reseed(model: Any, seed: int) -> None:
    """What draws at random in the model was made before the seed was set."""
    states = (v for v in model.non_trainable_variables if v.name == "seed_generator_state")
    for i, state in enumerate(states):
        state.assign(np.asarray([(seed + i) % 2**31, 0], state.dtype))
    held = (regularizer for _, regularizer in regularizers_of(model))
    drawing = (r for r in held if isinstance(r, OrthogonalityRegularizer))
    for i, regularizer in enumerate(drawing):
        regularizer.reseed(seed + i)


def _gist(error: BaseException) -> str:
    """The line of an error that says what is wrong; TensorFlow puts others before it."""
    noise = ("Graph execution error", "Detected at", "<stack traces", "File ", "[[{{")
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(noise)]
    return f"{type(error).__name__}: {telling[0]}" if telling else type(error).__name__


def _floats(logs: Mapping[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in logs.items() if np.ndim(v) == 0}


class _Watcher(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """Tells the progress display how it goes, and stops when the loss is no longer a number."""

    def __init__(self, progress: Progress | None) -> None:
        super().__init__()
        self._progress = progress
        self._epoch = 0
        self.fault: str | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        values = _floats(logs or {})
        loss = values.get("loss", 0.0)
        if not math.isfinite(loss):
            self.fault = (
                f"the loss became {loss} in epoch {self._epoch + 1}, step {batch + 1}: nothing was "
                "saved; try a lower learning rate or factor"
            )
            self.model.stop_training = True
        if self._progress is not None:
            self._progress.step(self._epoch, batch + 1, values)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._progress is not None:
            self._progress.epoch(epoch, _floats(logs or {}))
