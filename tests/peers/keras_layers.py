"""Every layer of Keras's own layer tests, through orthwrap: live, as `.keras`, as `.h5`.

`python tests/peers/keras_layers.py [PART OF A TEST FILE'S NAME …]` runs those tests inside the
installed Keras that call `run_layer_test`, and puts the layer of each call into a model of its own
instead (see `ways.py`). Prints what failed, with its reason, and a table; exit 1 below 99 %.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import tempfile
import types
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.peers.ways import Table, through  # first: it quiets TensorFlow

# isort: split
import keras
import numpy as np
from keras.src import testing
from keras.src.testing import test_case

TABLE = Table()


def model_of(layer: Any, given: dict[str, Any], arrays: Any) -> Any:
    """A functional model of one layer."""
    kinds = {kind: bool(given.get(f"input_{kind}")) for kind in ("sparse", "ragged")}
    inputs = keras.tree.map_structure(
        lambda a: keras.Input(
            batch_shape=tuple(a.shape), dtype=keras.backend.standardize_dtype(a.dtype), **kinds
        ),
        arrays,
    )
    return keras.Model(keras.tree.flatten(inputs), _called(layer, given, inputs))


def _called(layer: Any, given: dict[str, Any], inputs: Any) -> Any:
    call = {k: v for k, v in (given.get("call_kwargs") or {}).items() if k != "training"}
    is_named = isinstance(given.get("input_shape"), dict)
    return layer(**inputs, **call) if is_named else layer(inputs, **call)


def arrays_for(given: dict[str, Any]) -> Any:
    """Inputs such as the test gives."""
    data, shapes = given.get("input_data"), given.get("input_shape")
    sparse, ragged = given.get("input_sparse"), given.get("input_ragged")
    dtype = given.get("input_dtype") or "float32"
    if data is not None:
        return keras.tree.map_structure(_as_given, data)
    if sparse or ragged:
        kinds = dtype if test_case.is_shape_tuple(shapes) else [dtype] * len(shapes)
        return test_case.create_eager_tensors(shapes, kinds, bool(sparse), bool(ragged))
    rng = np.random.default_rng(0)

    def made(shape: Any, kind: Any) -> Any:
        kind = keras.backend.standardize_dtype(kind if isinstance(kind, str) else None)
        if "int" in kind:
            return rng.integers(0, 2, shape).astype(kind)
        return rng.uniform(0.1, 1.0, shape).astype("float32").astype(kind)

    if isinstance(shapes, dict):
        kinds = dtype if isinstance(dtype, dict) else {}
        return {k.removesuffix("_shape"): made(s, kinds.get(k)) for k, s in shapes.items()}
    if test_case.is_shape_tuple(shapes):
        return made(shapes, dtype)
    return [made(shape, dtype) for shape in shapes]


def _as_given(value: Any) -> Any:
    """A value as an array; what is sparse or ragged stays so."""
    return value if hasattr(value, "to_tensor") or hasattr(value, "indices") else np.asarray(value)


def layer_through(given: dict[str, Any], folder: Path) -> None:
    """One call of `run_layer_test`, in every way."""
    case = f"{given['layer_cls'].__name__} {str(given['init_kwargs'])[:160]}"
    with keras.saving.custom_object_scope(given.get("custom_objects") or {}):
        arrays = arrays_for(given)
        layer = given["layer_cls"](**given["init_kwargs"])
        try:
            model = model_of(layer, given, arrays)
        except Exception as e:
            _called(layer, given, arrays)  # fails too where that is what the test is about
            TABLE.note("", "no model", case, f"{type(e).__name__}: {e}")
        else:
            flat = keras.tree.flatten(arrays)
            through(TABLE, case, model, flat if len(flat) > 1 else flat[0], folder)


def hooked(folder: Path) -> Callable[..., None]:
    signature = inspect.signature(testing.TestCase.run_layer_test)

    def run_layer_test(*args: Any, **kwargs: Any) -> None:
        given = dict(signature.bind(*args, **kwargs).arguments)
        del given["self"]
        key = repr({k: v for k, v in given.items() if not k.startswith("expected")})
        if key not in TABLE.seen:
            TABLE.seen.add(key)
            layer_through(given, folder)

    return run_layer_test


def tests_of(name: str) -> unittest.TestSuite:
    """The tests of a module that call `run_layer_test`."""
    suite = unittest.TestSuite()
    for case in unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(name)):
        for test in case if isinstance(case, unittest.TestSuite) else ():
            method = getattr(test, test._testMethodName)
            try:
                calls = ".run_layer_test" in inspect.getsource(inspect.unwrap(method))
            except (OSError, TypeError):
                calls = True
            if calls:
                suite.addTest(test)
    return suite


class Told(unittest.TestResult):
    """Says of a test that it ended otherwise than by what the table has."""

    def addError(self, test: Any, err: Any) -> None:
        is_skipped = err[0].__name__ == "Skipped"  # by pytest, where a backend cannot do it
        TABLE.note("", "skipped" if is_skipped else "error", str(test), str(err[1]))

    addFailure = addError


def stand_ins() -> None:
    """Modules that tests import for others of their tests than those that call the hook."""
    for name in ("grain", "conftest"):
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = types.ModuleType(name)
    vars(sys.modules["conftest"])["skip_if_backend"] = lambda *_: lambda test: test


def main(parts: list[str]) -> int:
    stand_ins()
    root = Path(keras.__file__).parent / "src"
    with tempfile.TemporaryDirectory() as folder:
        testing.TestCase.run_layer_test = hooked(Path(folder))
        for path in sorted(root.rglob("*_test.py")):
            is_asked = not parts or any(part in path.name for part in parts)
            if is_asked and ".run_layer_test(" in path.read_text("utf-8"):
                name = ".".join(("keras.src", *path.relative_to(root).with_suffix("").parts))
                tests_of(name).run(Told())
                keras.utils.clear_session()
    return 0 if TABLE.show() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
