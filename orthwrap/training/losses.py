"""Task loss and penalty, told apart in a model's logs."""

from __future__ import annotations

from typing import Any

import keras

from orthwrap.stores.live import forget_compiled_steps


class split_losses:
    """While active, the model's logs tell `task_loss` and `penalty` apart.

    `loss` is their sum. The penalty is everything Keras adds to the compiled loss: regularizers
    of kernels, and losses of layers. Validation logs have both too.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._means: tuple[Any, Any] = (
            keras.metrics.Mean(name="task_loss"),
            keras.metrics.Mean(name="penalty"),
        )

    def __enter__(self) -> None:
        model, (task, penalty) = self._model, self._means
        total_of, aggregate = model.compute_loss, model._aggregate_additional_loss
        added: list[Any] = []

        def collecting(loss: Any) -> Any:
            added.append(aggregate(loss))
            return added[-1]

        def compute_loss(*args: Any, **kwargs: Any) -> Any:
            added.clear()
            total = total_of(*args, **kwargs)
            extra = sum(added) if added else keras.ops.zeros((), total.dtype)
            # Keras weighs each batch's loss by its size; the last one may be smaller.
            samples = keras.ops.shape(keras.tree.flatten(args[0] if args else kwargs["x"])[0])[0]
            penalty.update_state(extra, samples)
            task.update_state(total - extra, samples)
            added.clear()  # traced tensors must not outlive their trace
            return total

        model._aggregate_additional_loss = collecting
        model.compute_loss = compute_loss
        model._metrics.extend(self._means)
        forget_compiled_steps(model)

    def __exit__(self, *error: object) -> None:
        model = self._model
        del model.compute_loss, model._aggregate_additional_loss
        for mean in self._means:
            model._metrics[:] = [m for m in model._metrics if m is not mean]
        forget_compiled_steps(model)
