"""A model of others through orthwrap in every way: live, as `.keras`, as `.h5`.

What Keras itself does not save, load and call again with the same outputs is left out. Of the
rest, a way passes where what orthwrap made gives these outputs too, has all the kernels that the
live model has, and carries what the report says it does; where the original is the same bits as
before. It counts as told where orthwrap says of all kernels that are not there that their class was
not looked into, or in one line that a file would lose what is attached.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
warnings.simplefilter("ignore")

import keras  # noqa: E402
import numpy as np  # noqa: E402
from absl import logging  # noqa: E402

import orthwrap  # noqa: E402
from orthwrap.errors import NoMatchError, OrthwrapError  # noqa: E402

logging.set_verbosity(logging.ERROR)
WAYS = ("live", "saved", ".keras", ".h5")
ENOUGH = 0.99
# What orthwrap answers where a class makes its layers anew, so that a file loses what it carries.
LOST = "makes its layers anew, not from a config, so that a file would carry no regularizer"


class Table:
    """What became of each model, by way."""

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
        print(f"\n{'way':8}{'passed':>8}{'told':>8}{'failed':>8}{'share':>9}{'Keras cannot':>15}")
        for way in WAYS:
            passed, told = self.counts[way, "passed"], self.counts[way, "told"]
            failed, lost = self.counts[way, "FAILED"], self.counts[way, "Keras"]
            share = 1 - failed / max(passed + told + failed, 1)
            enough = enough and share >= ENOUGH
            print(f"{way:8}{passed:8}{told:8}{failed:8}{share:9.1%}{lost:15}")
        print(f"{self.counts['', 'no model']} calls make no functional model")
        print(f"{self.counts['', 'error']} tests ended otherwise")
        return enough and not self.counts["", "error"]


def outputs_of(model: Any, given: Any) -> list[Any]:
    fed = keras.tree.map_structure(
        lambda a: keras.ops.convert_to_tensor(a) if isinstance(a, np.ndarray) else a, given
    )
    for seed in (v for v in model.variables if "seed_generator_state" in v.path):
        seed.assign(keras.ops.zeros_like(seed))
    found = model(fed, training=False)
    return [np.asarray(keras.ops.convert_to_numpy(x)) for x in keras.tree.flatten(found)]


def same(found: list[Any], expected: list[Any]) -> bool:
    return len(found) == len(expected) and all(
        a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
        for a, b in zip(found, expected, strict=True)
    )


def through(table: Table, case: str, model: Any, arrays: Any, folder: Path) -> None:
    """A model in every way, called on these arrays, nested as it takes them."""
    expected = outputs_of(model, arrays)
    if not same(outputs_of(model, arrays), expected):
        table.note("", "no model", case, "its outputs vary")
        return
    before = _bits(model)
    kernels = _kernels(orthwrap.inspect(model, measure=False))
    for way in WAYS:
        if way == "saved" and not kernels:
            continue
        path, out = folder / f"model{way}", folder / f"out{way}"
        keras_can = True
        if way.startswith("."):
            why = _by_keras_alone(model, path, arrays, expected)
            if why:
                table.note(way, "Keras", case, why)
                if not path.exists():
                    continue
                keras_can = False
        source = path if way.startswith(".") else model
        output = {"live": None, "saved": folder / "out.keras"}.get(way, out)
        try:
            changed, told = _done(source, output, kernels)
            if not same(outputs_of(changed, arrays), expected):
                raise AssertionError("other outputs")
            if _bits(model) != before:
                raise AssertionError("the original is not what it was")
        except Exception as e:
            if way == "saved" and isinstance(e, OrthwrapError) and LOST in str(e):
                table.note(way, "told", case)
            elif keras_can:
                table.note(way, "FAILED", case, f"{type(e).__name__}: {e}")
        else:
            table.note(way, ("told" if told else "passed") if keras_can else "mended", case)


def _by_keras_alone(model: Any, path: Path, arrays: Any, expected: list[Any]) -> str:
    """Why Keras itself does not give back what it saves; "" where it does."""
    path.unlink(missing_ok=True)
    try:
        model.save(path)
        loaded = keras.models.load_model(path, compile=False)
        return "" if same(outputs_of(loaded, arrays), expected) else "other outputs"
    except Exception as e:
        return f"{type(e).__name__}: {e}"


def _done(source: Any, output: Path | None, kernels: set[Any]) -> tuple[Any, bool]:
    """The model that orthwrap made, loaded by Keras where it is a file.

    Returns:
        The model; and whether the report says of some kernels that they were not looked into.

    Raises:
        AssertionError: it has other kernels than these, or carries less than the report says.
    """
    try:
        done = orthwrap.apply(source, output, target="all", force=True)
        report = done.report
    except NoMatchError:  # no kernel to take: what leaves the model as it is
        done = orthwrap.strip(source, output, force=True)
        report = orthwrap.inspect(source, measure=False)
    changed = done.model if output is None else keras.models.load_model(output, compile=False)
    found = _kernels(report)
    unseen = [f"{layer.path}/".lstrip("/") for layer in report.not_looked_into]
    told = {k for k in kernels - found if any(f"{k[0]}/".startswith(path) for path in unseen)}
    if found | told != kernels:
        raise AssertionError(f"kernels {sorted((found | told) ^ kernels)} differ from live")
    said = sum(r.decision == "regularized" and r.kernel is not None for r in report.layers)
    acting = sum(type(v.regularizer).__module__.startswith("orthwrap") for v in changed.variables)
    if acting != said:
        raise AssertionError(f"{said} kernels reported, {acting} carry a regularizer")
    return changed, bool(told)


def _kernels(report: Any) -> set[tuple[str, str, str]]:
    return {(r.path, r.slot, r.kernel) for r in report.layers if r.kernel is not None}


def _bits(model: Any) -> list[bytes]:
    """Every variable that the model or a layer of it holds, tracked or not."""
    held = [
        value.state if isinstance(value, keras.random.SeedGenerator) else value
        for layer in model._flatten_layers()
        for value in keras.tree.flatten([vars(layer).get("states"), layer.variables])
    ]
    return [keras.ops.convert_to_numpy(v).tobytes() for v in held if isinstance(v, keras.Variable)]
