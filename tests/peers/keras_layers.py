"""Every layer of Keras's own layer tests, through orthwrap: live, as `.keras`, as `.h5`.

`python tests/peers/keras_layers.py [PART OF A TEST FILE'S NAME …]` runs those tests inside the
installed Keras that call `run_layer_test`, and puts the layer of each call into a model of its own
instead. What Keras itself does not save, load and call again with the same outputs is left out;
of the rest, a way passes where what orthwrap made gives these outputs too, with all the kernels
that the live model has. Prints what failed, with its reason, and a table; exit 1 below 99 %.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import tempfile
import unittest
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
warnings.simplefilter("ignore")

import keras  # noqa: E402
import numpy as np  # noqa: E402
from absl import logging  # noqa: E402
from keras.src import testing  # noqa: E402

import orthwrap  # noqa: E402
from orthwrap.errors import NoMatchError  # noqa: E402

logging.set_verbosity(logging.ERROR)
WAYS = ("live", ".keras", ".h5")
ENOUGH = 0.99


class Table:
    """What became of each call, by way."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.seen: set[str] = set()

    def note(self, way: str, what: str, case: str, why: str = "") -> None:
        self.counts[way, what] += 1
        if why:
            print(f"{what:9} {way:7} {case}: {' '.join(why.split())[:300]}", flush=True)

    def show(self) -> bool:
        """Whether enough passed."""
        enough = True
        print(f"\n{'way':8}{'passed':>8}{'failed':>8}{'share':>9}{'Keras cannot':>15}")
        for way in WAYS:
            passed, failed = self.counts[way, "passed"], self.counts[way, "FAILED"]
            share = passed / max(passed + failed, 1)
            enough = enough and share >= ENOUGH
            lost = self.counts[way, "Keras"]
            print(f"{way:8}{passed:8}{failed:8}{share:9.1%}{lost:15}")
        print(f"{self.counts['', 'no model']} calls make no functional model")
        return enough


TABLE = Table()


def model_of(layer: Any, given: dict[str, Any]) -> tuple[Any, Any]:
    """A functional model of one layer, and inputs for it."""
    rng = np.random.default_rng(0)
    data, shapes = given.get("input_data"), given.get("input_shape")
    dtype = given.get("input_dtype") or "float32"
    if given.get("input_sparse") or given.get("input_ragged"):
        raise TypeError("sparse or ragged inputs")

    def is_shape(value: Any) -> bool:
        return isinstance(value, (tuple, list)) and all(
            size is None or isinstance(size, int) for size in value
        )

    def made(shape: Any, kind: Any = None) -> Any:
        kind = keras.backend.standardize_dtype(kind or (dtype if isinstance(dtype, str) else None))
        if "int" in kind:
            return rng.integers(0, 2, shape).astype(kind)
        return rng.uniform(0.1, 1.0, shape).astype("float32").astype(kind)

    if data is not None:
        arrays = keras.tree.map_structure(np.asarray, data)
    elif isinstance(shapes, dict):
        kinds = dtype if isinstance(dtype, dict) else {}
        arrays = {
            key.removesuffix("_shape"): made(shape, kinds.get(key)) for key, shape in shapes.items()
        }
    elif is_shape(shapes):
        arrays = made(shapes)
    else:
        arrays = [made(shape) for shape in shapes]
    inputs = keras.tree.map_structure(
        lambda a: keras.Input(batch_shape=a.shape, dtype=str(a.dtype)), arrays
    )
    call = dict(given.get("call_kwargs") or {})
    call.pop("training", None)
    outputs = layer(**inputs, **call) if isinstance(shapes, dict) else layer(inputs, **call)
    return keras.Model(keras.tree.flatten(inputs), outputs), keras.tree.flatten(arrays)


def outputs_of(model: Any, given: Any) -> list[Any]:
    fed = [keras.ops.convert_to_tensor(array) for array in given]
    for seed in (v for v in model.variables if "seed_generator_state" in v.path):
        seed.assign(keras.ops.zeros_like(seed))
    found = model(fed if len(fed) > 1 else fed[0], training=False)
    return [np.asarray(keras.ops.convert_to_numpy(x)) for x in keras.tree.flatten(found)]


def same(found: list[Any], expected: list[Any]) -> bool:
    return len(found) == len(expected) and all(
        a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
        for a, b in zip(found, expected, strict=True)
    )


def attached(source: Any, *output: Path) -> Any:
    """The result of `apply`; where a model has no kernel to take, of what leaves it as it is."""
    try:
        return orthwrap.apply(source, *output, target="all", force=True)
    except NoMatchError:
        if output:
            return orthwrap.upgrade(source, *output, force=True)
        return orthwrap.strip(source)


def kernels_in(report: Any) -> set[tuple[str, str, str]]:
    return {(r.path, r.slot, r.kernel) for r in report.layers if r.kernel is not None}


def through(layer_cls: Any, given: dict[str, Any], folder: Path) -> None:
    """One call of `run_layer_test`, in every way."""
    case = f"{layer_cls.__name__} {str(given['init_kwargs'])[:160]}"
    known = given.get("custom_objects") or {}
    with keras.saving.custom_object_scope(known):
        try:
            model, arrays = model_of(layer_cls(**given["init_kwargs"]), given)
            expected = outputs_of(model, arrays)
            if not same(outputs_of(model, arrays), expected):
                raise TypeError("its outputs vary")
        except Exception as e:
            TABLE.note("", "no model", case, f"{type(e).__name__}: {e}")
            return
        kernels = kernels_in(orthwrap.inspect(model, measure=False))
        for way in WAYS:
            path, out = folder / f"model{way}", folder / f"out{way}"
            if way != "live":
                try:
                    model.save(path)
                    loaded = keras.models.load_model(path, compile=False)
                    if not same(outputs_of(loaded, arrays), expected):
                        raise TypeError("other outputs")
                except Exception as e:
                    TABLE.note(way, "Keras", case, f"{type(e).__name__}: {e}")
                    if not path.exists():
                        continue
                    keras_can = False
                else:
                    keras_can = True
            try:
                if way == "live":
                    changed, keras_can = attached(model).model, True
                else:
                    done = attached(path, out)
                    changed = keras.models.load_model(out, compile=False)
                    found = kernels_in(done.report)
                    if found != kernels and kernels_in(done.report):
                        raise AssertionError(f"kernels {sorted(found ^ kernels)} differ from live")
                if not same(outputs_of(changed, arrays), expected):
                    raise AssertionError("other outputs")
            except Exception as e:
                if keras_can:
                    TABLE.note(way, "FAILED", case, f"{type(e).__name__}: {e}")
            else:
                TABLE.note(way, "passed" if keras_can else "mended", case)


def hooked(folder: Path) -> Callable[..., None]:
    signature = inspect.signature(testing.TestCase.run_layer_test)

    def run_layer_test(*args: Any, **kwargs: Any) -> None:
        given = dict(signature.bind(*args, **kwargs).arguments)
        key = repr((given["layer_cls"], given["init_kwargs"], given.get("input_shape")))
        if key not in TABLE.seen:
            TABLE.seen.add(key)
            through(given["layer_cls"], given, folder)

    return run_layer_test


def tests_of(name: str) -> unittest.TestSuite:
    """The tests of a module that call `run_layer_test`."""
    suite = unittest.TestSuite()
    for case in unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(name)):
        for test in case if isinstance(case, unittest.TestSuite) else ():
            method = getattr(test, test._testMethodName)
            try:
                calls = "run_layer_test" in inspect.getsource(inspect.unwrap(method))
            except (OSError, TypeError):
                calls = True
            if calls:
                suite.addTest(test)
    return suite


def main(parts: list[str]) -> int:
    root = Path(keras.__file__).parent / "src" / "layers"
    with tempfile.TemporaryDirectory() as folder:
        testing.TestCase.run_layer_test = hooked(Path(folder))
        for path in sorted(root.rglob("*_test.py")):
            if parts and not any(part in path.name for part in parts):
                continue
            name = ".".join(("keras.src.layers", *path.relative_to(root).with_suffix("").parts))
            try:
                tests_of(name).run(unittest.TestResult())
            except ImportError as e:
                print(f"{name} cannot be imported here: {e}")
            keras.utils.clear_session()
    return 0 if TABLE.show() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
