"""The figures of a training are the true ones: task loss and penalties against plain Keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import orthwrap
from orthwrap import FactorSchedule
from orthwrap.training.loop.losses import split_losses

pytestmark = pytest.mark.usefixtures("eagerly")

Array = np.ndarray[Any, np.dtype[Any]]
X = np.random.default_rng(0).normal(size=(24, 6)).astype("float32")
Y = np.argmax(X[:, :3], axis=1)


def so(kernel: Array) -> float:
    """‖G−I‖_F² of the smaller Gram matrix, in float64."""
    w = kernel.astype("float64")
    w = w if w.shape[0] >= w.shape[1] else w.T
    return float(np.sum((w.T @ w - np.eye(w.shape[1])) ** 2))


def array(tensor: Any) -> Array:
    return np.asarray(ops.convert_to_numpy(tensor)).astype("float64")


def cross_entropy(model: Any) -> float:
    probabilities = array(model(X))
    return float(-np.log(probabilities[np.arange(len(Y)), Y]).mean())


class Summing(keras.Model):  # type: ignore[misc]  # Keras is untyped
    """A `compute_loss` of its own that adds what layers add."""

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, **_: Any
    ) -> Any:
        loss = keras.losses.sparse_categorical_crossentropy(y, y_pred)
        return ops.mean(loss) + sum(self.losses)


class Counting(keras.Model):  # type: ignore[misc]
    """Keeps count of its own in a metric."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen = keras.metrics.Sum(name="seen")

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        self.seen.update_state(1.0)
        return super().compute_loss(*args, **kwargs)


class Adding(layers.Layer):  # type: ignore[misc]
    """Adds a loss of its own, beside that of its outputs."""

    def call(self, x: Any) -> Any:
        self.add_loss(0.25 * ops.mean(ops.square(x)))
        return x


def classifier(cls: Any = keras.Model, large: float = 1.0, **first: Any) -> Any:
    keras.utils.set_random_seed(1)
    inputs = layers.Input((6,))
    hidden = layers.Dense(5, activation="tanh", name="hidden", **first)(inputs)
    model = cls(inputs, layers.Dense(3, activation="softmax", name="head")(hidden))
    model.layers[1].kernel.assign(large * model.layers[1].kernel)
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    return model


def first_epoch(training: Any) -> dict[str, float]:
    return {name: values[0] for name, values in training.history.items()}


@pytest.mark.dear
@pytest.mark.parametrize("cls", [keras.Model, Summing, Counting])
@pytest.mark.parametrize("factor", [1e-9, 1e3, 1e9])
def test_task_loss_is_true_beside_any_penalty(cls: Any, factor: float) -> None:
    model = classifier(cls)
    words: dict[str, Any] = {"target": "hidden", "scale": "unit", "keep": "last"}
    data = (X, Y, X, Y)
    result = orthwrap.apply(model, factor=factor, data=data, epochs=1, batch_size=24, **words)
    training = result.report.training
    assert training is not None
    task, penalty = cross_entropy(model), factor * so(array(model.layers[1].kernel))
    logs = first_epoch(training)
    for found in (training.metrics_before, training.metrics_after, logs):
        assert found["task_loss"] == pytest.approx(task, rel=1e-5)
        assert found["penalty"] == pytest.approx(penalty, rel=1e-4)
        assert found["loss"] == pytest.approx(task + penalty, rel=1e-4)
        assert "own_penalty" not in found
    assert logs["val_task_loss"] == pytest.approx(task, rel=1e-5)
    if cls is Counting:
        assert training.history["seen"] == (1,)


def sigma_max(kernel: Array) -> float:
    """σ_max(G−I), in float64."""
    w = kernel.astype("float64")
    return float(np.abs(np.linalg.svd(w, compute_uv=False) ** 2 - 1).max())


class Watching(keras.callbacks.Callback):  # type: ignore[misc]
    """The penalty after each epoch, computed by NumPy, and what `evaluate` gives meanwhile."""

    def __init__(self, penalty: Callable[[Array], float]) -> None:
        super().__init__()
        self._penalty = penalty
        self.penalties: list[float] = []
        self.evaluated: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.penalties.append(self._penalty(array(self.model.layers[1].kernel)))
        self.evaluated.append(self.model.evaluate(X, Y, verbose=0, return_dict=True)["penalty"])


CHANCE: dict[str, tuple[str, dict[str, Any], Callable[[Array], float]]] = {
    "every": ("so", {"every": 3}, so),
    "sketch": ("so", {"estimate": "sketch", "probes": 1}, so),
    "srip above 128": ("srip", {"steps": 1}, sigma_max),
    "free": ("so", {"every": 3}, lambda k: so(k / np.sqrt(np.sum(k**2) / min(k.shape)))),
}


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.traced
@pytest.mark.parametrize("case", CHANCE)
def test_validation_is_exact_where_a_call_is_an_estimate(case: str) -> None:
    name, options, formula = CHANCE[case]
    keras.utils.set_random_seed(0)
    body = [layers.Dense(140), layers.Dense(130), layers.Dense(3, activation="softmax")]
    model = keras.Sequential([layers.Input((6,)), *body])
    model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy")
    watching = Watching(lambda kernel: 1e-2 * formula(kernel))
    words: dict[str, Any] = {"regularizer": name, "factor": 1e-2, "options": options}
    words |= {"target": model.layers[-2].name, "scale": "free" if case == "free" else "unit"}
    # Each epoch validates on three batches, and `every` pays at one of three.
    result = orthwrap.apply(
        model,
        data=(X, Y, X, Y),
        batch_size=8,
        epochs=4,
        monitor="val_loss",
        callbacks=[watching],
        **words,
    )
    training = result.report.training
    assert training is not None
    history = training.history
    np.testing.assert_allclose(history["val_penalty"], watching.penalties, rtol=1e-5)
    total = np.add(history["val_task_loss"], watching.penalties)
    np.testing.assert_allclose(history["val_loss"], total, rtol=1e-5)
    assert training.kept_epoch == 1 + int(np.argmin(total))
    first = 1e-2 * formula(array(model.layers[-2].kernel))
    assert training.metrics_before["penalty"] == pytest.approx(first, rel=1e-5)
    kept = watching.penalties[training.kept_epoch - 1]
    assert training.metrics_after["penalty"] == pytest.approx(kept, rel=1e-5)
    # Whoever else evaluates gets what the regularizer gives.
    assert all(value > 0 for value in watching.evaluated) or case in ("every", "free")
    assert not np.allclose(watching.evaluated, watching.penalties, rtol=1e-4)


@pytest.mark.traced
def test_validation_takes_a_penalty_of_outputs_at_each_batch() -> None:
    """Features × features of the batch's outputs, divided by its samples, as Keras does."""
    model = classifier()
    words: dict[str, Any] = {"on": "activity", "factor": 0.1, "options": {"every": 3}}
    result = orthwrap.apply(
        model, target="hidden", data=(X, Y, X, Y), epochs=2, batch_size=8, **words
    )
    hidden = np.tanh(X.astype("float64") @ array(model.layers[1].kernel))
    grams = [h.T @ h / len(h) for h in np.split(hidden, 3)]
    penalty = np.mean([0.1 * np.sum((g - np.eye(5)) ** 2) / 8 for g in grams])
    training = result.report.training
    assert training is not None
    assert training.history["val_penalty"] == pytest.approx((penalty,) * 2, rel=1e-4)


OF_OUTPUTS: dict[str, Callable[[Array], float]] = {
    "srip": lambda g: float(np.abs(np.linalg.eigvalsh(g) - 1).max()),
    "spectral": lambda g: float((np.sqrt(np.linalg.eigvalsh(g).max()) - 1) ** 2),
}


@pytest.mark.dear
@pytest.mark.traced
@pytest.mark.parametrize("name", OF_OUTPUTS)
def test_validation_is_exact_where_a_penalty_of_outputs_is_an_estimate(name: str) -> None:
    keras.utils.set_random_seed(0)
    body = [layers.Dense(140, name="wide"), layers.Dense(3, activation="softmax")]
    model = keras.Sequential([layers.Input((6,)), *body])
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    words: dict[str, Any] = {"on": "activity", "regularizer": name, "factor": 0.1}
    words |= {"target": "wide", "options": {"steps": 1}}
    result = orthwrap.apply(model, data=(X, Y, X, Y), epochs=1, batch_size=8, **words)
    wide = X.astype("float64") @ array(model.layers[0].kernel)
    grams = [h.T @ h / len(h) for h in np.split(wide, 3)]
    penalty = np.mean([0.1 * OF_OUTPUTS[name](g) / 8 for g in grams])
    training = result.report.training
    assert training is not None
    assert training.history["val_penalty"] == pytest.approx((penalty,), rel=1e-3)
    assert training.metrics_before["penalty"] == pytest.approx(penalty, rel=1e-3)


class Truth(keras.callbacks.Callback):  # type: ignore[misc]
    """The task loss after each epoch, computed by NumPy."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.losses.append(cross_entropy(self.model))


@pytest.mark.slow
def test_task_loss_chooses_the_epoch_beside_a_huge_penalty() -> None:
    model = classifier(large=3.0)
    model.compile(keras.optimizers.SGD(1e-10), "sparse_categorical_crossentropy")
    truth = Truth()
    words: dict[str, Any] = {"target": "hidden", "factor": 1e6, "scale": "unit", "epochs": 3}
    training = orthwrap.apply(
        model, data=(X, Y, X, Y), batch_size=24, keep="best-task", callbacks=[truth], **words
    ).report.training
    assert training is not None
    assert len(set(truth.losses)) == 3
    np.testing.assert_allclose(training.history["val_task_loss"], truth.losses, rtol=1e-5)
    assert training.kept_epoch == 1 + int(np.argmin(truth.losses))


@pytest.mark.traced
def test_training_goes_as_in_plain_keras() -> None:
    """The split changes nothing: the weights are those of the formula attached by hand."""

    @keras.saving.register_keras_serializable("tests")
    def by_hand(kernel: Any) -> Any:
        gram = ops.matmul(ops.transpose(kernel), kernel)
        return 0.05 * ops.sum(ops.square(gram - ops.eye(5)))

    def fitted(model: Any, callbacks: list[Any]) -> list[Array]:
        model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy")
        model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
        return [array(w) for w in model.weights]

    for cls in (keras.Model, Summing, Counting):
        plain = classifier(cls, kernel_regularizer=by_hand, bias_regularizer="l2")
        ours = classifier(
            cls, kernel_regularizer=orthwrap.SO(0.05, scale="unit"), bias_regularizer="l2"
        )
        found = fitted(ours, [FactorSchedule("constant")])
        for a, b in zip(found, fitted(plain, []), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


OWN: dict[str, Callable[[], dict[str, Any]]] = {
    "beside": lambda: {"bias_regularizer": keras.regularizers.L2(0.5)},
    "of outputs": lambda: {"activity_regularizer": keras.regularizers.L2(0.5)},
    "combined": lambda: {"kernel_regularizer": keras.regularizers.L2(0.5)},
}


@pytest.mark.dear
@pytest.mark.parametrize("where", OWN)
@pytest.mark.parametrize("cls", [keras.Model, Summing])
def test_three_figures_make_up_the_loss(cls: Any, where: str) -> None:
    model = classifier(cls, **OWN[where]())
    hidden = model.layers[1]
    hidden.bias.assign(np.linspace(0, 1, 5))
    outputs = np.tanh(X.astype("float64") @ array(hidden.kernel) + array(hidden.bias))
    own = {
        "beside": 0.5 * np.sum(array(hidden.bias) ** 2),
        "of outputs": 0.5 * np.sum(outputs**2) / len(X),
        "combined": 0.5 * np.sum(array(hidden.kernel) ** 2),
    }[where]
    result = orthwrap.apply(
        model, target="hidden", factor=0.1, scale="unit", data=(X, Y), epochs=1, batch_size=24
    )
    training = result.report.training
    assert training is not None
    penalty = 0.1 * so(array(hidden.kernel))
    assert result.report.summary["penalty_before"] == pytest.approx(penalty, rel=1e-4)
    for found in (training.metrics_before, first_epoch(training)):
        assert found["own_penalty"] == pytest.approx(own, rel=1e-4)
        assert found["penalty"] == pytest.approx(penalty, rel=1e-4)
        assert found["task_loss"] == pytest.approx(cross_entropy(model), rel=1e-4)
        assert found["loss"] == pytest.approx(cross_entropy(model) + penalty + own, rel=1e-4)


@pytest.mark.traced
@pytest.mark.parametrize("beside", [None, keras.regularizers.L2(0.5)])
def test_penalties_of_outputs_are_told_from_what_layers_add(beside: Any) -> None:
    keras.utils.set_random_seed(1)
    inputs = layers.Input((6,))
    regularizer = orthwrap.SO(0.1, on="activity", combined_with=beside)
    added = Adding(activity_regularizer=regularizer)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(added(inputs)))
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    with split_losses(model):
        logs = model.evaluate(X, Y, batch_size=24, verbose=0, return_dict=True)
    a = X.astype("float64") / np.sqrt(len(X))
    assert logs["penalty"] == pytest.approx(
        0.1 * np.sum((a.T @ a - np.eye(6)) ** 2) / len(X), rel=1e-4
    )
    other = 0.0 if beside is None else 0.5 * np.sum(X**2) / len(X)
    assert logs["own_penalty"] == pytest.approx(0.25 * np.mean(X**2) + other, rel=1e-4)
    assert logs["task_loss"] == pytest.approx(cross_entropy(model), rel=1e-5)
    assert "add_loss" not in vars(added)


# A penalty that is too much


class Shown:
    """A progress that keeps what it is told before the first step."""

    def __init__(self) -> None:
        self.told: tuple[str, ...] = ()

    def start(self, choices: tuple[str, ...], epochs: int, steps: int | None) -> None:
        self.told = choices

    def step(self, *_: Any) -> None:
        pass

    def epoch(self, *_: Any) -> None:
        pass

    def stop(self) -> None:
        pass


@pytest.mark.dear
@pytest.mark.parametrize(
    ("times", "words", "warns"),
    [
        (270.0, {}, True),
        (3.0, {}, False),
        (270.0, {"distill": True}, False),  # who imitates itself has no task loss at first
        (270.0, {"pull": 0.01}, False),  # and no penalty is in the loss
    ],
)
def test_penalty_that_swamps_the_task_is_told_before_the_first_step(
    times: float, words: dict[str, Any], warns: bool
) -> None:
    model = classifier()
    factor = times * cross_entropy(model) / so(array(model.layers[1].kernel))
    shown = Shown()
    words |= {"target": "hidden", "scale": "unit", "factor": factor, "epochs": 1}
    report = orthwrap.apply(model, data=(X, Y), progress=shown, **words).report
    said = [line for line in report.warnings if "× the task loss" in line]
    assert bool(said) == warns
    if warns:
        assert said[0].startswith("the penalty is 270 × the task loss")
        assert said[0].endswith("attach with scale preserve, factor auto or a smaller factor")
        assert f"warning: {said[0]}" in shown.told


def test_who_has_factors_found_is_not_told_to_have_them_found() -> None:
    words: dict[str, Any] = {"target": "hidden", "scale": "unit", "epochs": 1, "rho": 1e4}
    report = orthwrap.apply(classifier(), data=(X, Y), factor="auto", **words).report
    (said,) = (line for line in report.warnings if "× the task loss" in line)
    assert said.endswith("attach with scale preserve or a smaller rho")


@pytest.mark.dear
@pytest.mark.parametrize("validates", [True, False])
@pytest.mark.parametrize(("rate", "said"), [(1e3, "explo"), (1e30, "became|explo")])
def test_what_the_last_step_breaks_is_not_the_result(
    validates: bool, rate: float, said: str
) -> None:
    """No further step shows what the last one has done."""
    model = classifier(large=2.0)
    model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy")
    data = (X, Y, X, Y) if validates else (X, Y)
    words: dict[str, Any] = {"target": "hidden", "scale": "unit", "factor": 1.0, "epochs": 1}
    with pytest.raises(orthwrap.OrthwrapError, match=said) as caught:
        orthwrap.apply(model, data=data, batch_size=24, keep="last", **words)
    assert "nothing was saved" in str(caught.value)


@pytest.mark.slow
def test_factor_beside_which_the_task_is_nothing_ends_the_run() -> None:
    model = classifier()
    words: dict[str, Any] = {"target": "hidden", "scale": "unit", "epochs": 30, "keep": "last"}
    data = (X, Y, X, Y)
    orthwrap.apply(model, in_place=True, data=data, factor=0.0, learning_rate=0.5, **words)
    model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    with pytest.raises(orthwrap.OrthwrapError, match="the task drowned after epoch") as caught:
        orthwrap.apply(model, data=data, factor=1e9, **words)
    assert "try a lower factor" in str(caught.value)
