"""A layer type is one row: one from outside is found, read, chosen, regularized and measured."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import orthwrap
from orthwrap.model_config.layers import FAMILIES, LAYER_TYPES, KernelSpec, LayerType
from orthwrap.model_config.layout import Layout
from orthwrap.rules.patterns import SHORTHANDS


@keras.saving.register_keras_serializable(package="toys")
class Mixture(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """Several matrices side by side, summed: a kernel that its rank would take for a Conv1D's."""

    def __init__(self, units: int, experts: int, kernel_regularizer: Any = None, **kw: Any) -> None:
        super().__init__(**kw)
        self.units, self.experts = units, experts
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)

    def build(self, input_shape: tuple[int, ...]) -> None:
        shape = (self.experts, input_shape[-1], self.units)
        self.kernel = self.add_weight(
            shape=shape, name="kernel", regularizer=self.kernel_regularizer
        )

    def call(self, x: Any) -> Any:
        return ops.sum(ops.einsum("bi,eio->beo", x, self.kernel), axis=1)

    def get_config(self) -> dict[str, Any]:
        regularizer = keras.regularizers.serialize(self.kernel_regularizer)
        own = {"units": self.units, "experts": self.experts, "kernel_regularizer": regularizer}
        return {**super().get_config(), **own}


def experts(config: Any, shape: tuple[int, ...]) -> Layout:
    return Layout("experts", rows=(1,), columns=(2,), batch=(0,))


ROW = LayerType(
    "Mixture",
    (KernelSpec("kernel", "kernel", experts, "dense"),),
    package=__name__.partition(".")[0],
)


@pytest.fixture
def model() -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((7,)), Mixture(5, experts=3, name="mixture")])


SOURCES = ["live", "h5", "keras"]


def given(model: Any, source: str, folder: Path) -> Any:
    """The model itself, or a file of it."""
    if source == "live":
        return model
    path = folder / f"model.{source}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras calls .h5 a legacy format
        model.save(path)
    return path


def residual_of(kernel: Any) -> float:
    """By the definition: the three matrices are 7 × 5."""
    squares = [np.linalg.norm(w.T @ w - np.eye(5)) ** 2 for w in np.asarray(kernel, np.float64)]
    return float(np.sqrt(sum(squares) / (len(squares) * 5)))


@pytest.mark.parametrize("source", SOURCES)
def test_a_row_from_outside_is_all_that_a_layer_type_takes(
    source: str, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LAYER_TYPES, ROW.name, ROW)
    words: dict[str, Any] = {"target": "all-dense", "scale": "unit", "factor": 0.5}
    result = orthwrap.apply(given(model, source, tmp_path), **words)
    (record,) = result.report.layers
    assert (record.path, record.slot, record.kernel) == ("mixture", "kernel", "kernel")
    assert (record.layout, record.matrices) == ("experts", (3, 7, 5))
    assert record.decision == "regularized"
    assert "not known" not in record.reason
    kernel = model.layers[0].kernel
    assert record.before is not None
    assert record.before.residual == pytest.approx(residual_of(kernel), rel=1e-5)
    changed = result.model if source == "live" else orthwrap.load_model(result.output)
    (loss,) = changed.losses
    assert float(loss) == pytest.approx(0.5 * 15 * residual_of(kernel) ** 2, rel=1e-5)


@pytest.mark.parametrize("source", SOURCES)
def test_without_a_row_its_rank_stands_in_and_the_reason_says_so(
    source: str, model: Any, tmp_path: Path
) -> None:
    with pytest.raises(orthwrap.OrthwrapError, match="all-dense"):
        orthwrap.apply(given(model, source, tmp_path), target="all-dense", dry_run=True)
    (record,) = orthwrap.inspect(given(model, source, tmp_path), target="mixture").layers
    assert (record.layout, record.matrices) == ("conv", (1, 21, 5))


def test_a_class_of_that_name_in_another_package_is_another_class(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LAYER_TYPES, ROW.name, replace(ROW, package="keras"))
    assert orthwrap.inspect(model).layers[0].layout == "conv"


@pytest.mark.parametrize("source", SOURCES)
def test_an_alias_is_the_same_class(source: str, tmp_path: Path) -> None:
    """Keras's class is called GroupedQueryAttention, and so do `.h5` files call it."""
    inputs = keras.Input((6, 8))
    layer = keras.layers.GroupQueryAttention(head_dim=3, num_query_heads=4, num_key_value_heads=2)
    model = keras.Model(inputs, layer(inputs, inputs))
    report = orthwrap.apply(
        given(model, source, tmp_path), target="all-attention", dry_run=True
    ).report
    parts = ("query", "key", "value", "attention_output")
    assert [r.kernel for r in report.layers] == [f"{part}/kernel" for part in parts]
    assert {r.decision for r in report.layers} == {"regularized"}
    assert [r.matrices for r in report.layers] == [(4, 8, 3), (2, 8, 3), (2, 8, 3), (4, 3, 8)]


def test_every_family_of_a_row_has_a_shorthand() -> None:
    families = {spec.family for row in LAYER_TYPES.values() for spec in row.kernels}
    assert families == {*FAMILIES, None}
    assert set(SHORTHANDS) == {"all", *(f"all-{family}" for family in FAMILIES)}
    assert LAYER_TYPES["Embedding"].kernels[0].family is None
