"""Models that earlier releases of Keras 3 write, read here: their outputs are what they were.

`python tests/peers/older_keras.py [RELEASE …]` installs each release into a scratch folder, has it
write the models of `vintages.py` and those below as `.keras` and `.h5` with their outputs, and
brings each up to date here. Prints what differs, and a table; exit 1 where anything does. A file
in which the release itself finds another model than it wrote is counted apart: it must be what the
release finds, and orthwrap must say so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
warnings.simplefilter("ignore")

RELEASES = (
    "3.0.5 3.1.1 3.2.1 3.3.3 3.4.1 3.5.0 3.6.0 3.7.0 "
    "3.8.0 3.9.2 3.10.0 3.11.3 3.12.4 3.13.2 3.14.1 3.15.0"
)
ROOT = Path(__file__).resolve().parents[2]
BESIDE = ("dm-tree",)  # which releases up to 3.3 need, and the present one does not
TOLERANCE = 1e-6
LOST = "the first call's result in every place"  # of the warning where a file has lost its model
Makers = dict[str, Callable[[], Any]]


class Lenient:
    """Layers of a release; one that it has not, or not so, makes a model that is left out."""

    def __init__(self, layers: Any) -> None:
        self._layers = layers

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def made(*args: Any, **kwargs: Any) -> Any:
            kwargs.pop("input_length", None)
            try:
                return getattr(self._layers, name)(*args, **kwargs)
            except Exception:
                return None

        return made


class Release:
    """The installed Keras, by the names that `vintages.py` knows."""

    def __init__(self) -> None:
        import keras

        self._keras = keras
        self.layers = Lenient(keras.layers)
        policies = keras if hasattr(keras, "DTypePolicy") else keras.mixed_precision
        self.mixed_precision = type("Policies", (), {"Policy": policies.DTypePolicy})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._keras, name)


def transfer_models(k: Any) -> Makers:
    """Backbones in every place; operations; what is compiled."""
    from tests.support.vintages import _small_functional

    L, image = k.layers, (8, 8, 3)

    def backbone() -> Any:
        return _small_functional(k, image)

    def row(*layers: Any, shape: tuple[int, ...] = image) -> Any:
        return k.Sequential([k.Input(shape), *layers])

    def graph(after: Callable[[Any], Any], shape: tuple[int, ...] = image) -> Any:
        x = k.Input(shape)
        return k.Model(x, after(x))

    def operations(x: Any) -> Any:
        y = k.ops.tanh(x) * 2.0 + k.ops.concatenate([x, x], -1)[:, :4]
        return k.ops.where(y > 0.1, y, k.ops.mean(y, axis=-1, keepdims=True))

    def application(name: str) -> Any:
        make = getattr(k.applications, name)
        return make(include_top=False, weights=None, input_shape=(64, 64, 3), minimalistic=True)

    def compiled() -> Any:
        model = row(backbone(), L.Dense(2))
        model.compile("adam", "mse", metrics=["mae"])
        return model

    def augmented(x: Any) -> Any:
        y = k.Sequential([L.RandomFlip("horizontal"), L.RandomRotation(0.1)])(x)
        return L.Dense(2)(backbone()(L.Rescaling(1 / 127.5, offset=-1)(y), training=False))

    return {
        "transfer": lambda: row(backbone(), L.Flatten(), L.Dense(2)),
        "transfer_without_input": lambda: k.Sequential([backbone(), L.Dense(2)]),
        "transfer_last": lambda: row(L.Activation("relu"), backbone()),
        "transfer_deep": lambda: row(row(row(backbone()), L.Dense(3)), L.Dense(2)),
        "transfer_graph": lambda: graph(lambda x: L.Dense(2)(row(backbone(), L.Dense(3))(x))),
        "transfer_time": lambda: row(
            L.TimeDistributed(backbone()), L.Bidirectional(L.LSTM(3)), shape=(3, *image)
        ),
        "transfer_compiled": compiled,
        "transfer_augmented": lambda: graph(augmented),
        "transfer_mobilenet": lambda: row(
            application("MobileNetV3Small"), L.Flatten(), L.Dense(2), shape=(64, 64, 3)
        ),
        "operations": lambda: graph(operations, (4,)),
    }


def write(folder: Path) -> None:
    """The models of this process's Keras, each with inputs and outputs."""
    import numpy as np

    from tests.support.vintages import _inputs, _values, makers

    k = Release()
    rng = np.random.default_rng(0)
    made = {**makers(k, "layers"), **makers(k, "functional"), **transfer_models(k)}
    for name, make in made.items():
        try:
            k.utils.set_random_seed(1)
            model = make()
            fixed = [w for w in model.weights if "seed" not in w.name]
            for weight in fixed:
                weight.assign(_values(rng, weight))
            for layer in model.layers:
                if hasattr(layer, "finalize_state"):
                    layer.finalize_state()
            arrays = [_inputs(rng, x) for x in model.inputs]
            fed: Any = arrays if len(arrays) > 1 else arrays[0]
            if name == "dict_inputs":
                fed = {x.name: a for x, a in zip(model.inputs, arrays, strict=True)}
            outputs = model(fed, training=False)
        except Exception:  # this release has no such model
            continue
        _keep(folder / f"{name}.npz", arrays, outputs)
        for suffix in (".keras", ".h5"):
            try:
                model.save(folder / f"{name}{suffix}")
            except Exception:  # some releases cannot, and leave half a file
                (folder / f"{name}{suffix}").unlink(missing_ok=True)


def _keep(path: Path, arrays: list[Any], outputs: Any) -> None:
    """What a model was given, and what came of it, where `oracle` reads it."""
    import numpy as np

    outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    data = {f"x{i}": array for i, array in enumerate(arrays)}
    data |= {f"y{i}": np.asarray(array, "float32") for i, array in enumerate(outputs)}
    np.savez(path, **data)


def read_again(paths: list[Path]) -> None:
    """What this process's Keras finds in files, beside each."""
    import keras
    import numpy as np

    for path in paths:
        with np.load(path.with_suffix(".npz")) as kept:
            arrays = [kept[key] for key in sorted(kept.files) if key[0] == "x"]
        model = keras.models.load_model(path)
        outputs = model(arrays if len(arrays) > 1 else arrays[0], training=False)
        _keep(path.with_name(f"{path.name}.npz"), arrays, outputs)


def check(folder: Path) -> dict[str, str]:
    """What is wrong with each file once it was brought up to date; '' for nothing."""
    from absl import logging

    logging.set_verbosity(logging.ERROR)
    paths = sorted([*folder.glob("*.keras"), *folder.glob("*.h5")])
    return {path.name: _differs(path, path.with_suffix(".npz")) for path in paths}


def _differs(path: Path, expected: Path, said: str = "") -> str:
    """How a file brought up to date differs from what was kept; '' for nothing.

    Args:
        said: part of a warning that its report must have.
    """
    import keras
    import numpy as np

    import orthwrap
    from tests.support.upgrade_helpers import oracle, run

    out = path.with_name(f"new-{path.name}")
    try:
        report = orthwrap.upgrade(path, out).report
        model = keras.models.load_model(out, compile=path.stem == "transfer_compiled")
        inputs, outputs = oracle(expected)
        names = [x.name for x in model.inputs] if path.stem == "dict_inputs" else None
        found = run(model, inputs, names)
        worst = max(float(np.abs(a - b).max()) for a, b in zip(found, outputs, strict=True))
    except Exception as e:
        return f"{type(e).__name__}: {' '.join(str(e).split())[-200:]}"
    finally:
        out.unlink(missing_ok=True)
    if worst > TOLERANCE:
        return f"outputs differ by {worst:.2g}"
    return "" if any(said in w for w in ("", *report.warnings)) else "nothing is said of it"


def main(releases: list[str]) -> int:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    wrong = 0
    for release in releases:
        with tempfile.TemporaryDirectory() as scratch:
            beside, models = Path(scratch, "keras"), Path(scratch, "models")
            models.mkdir()
            subprocess.run([*pip, str(beside), f"keras=={release}", *BESIDE], check=True)
            _in_release(beside, "--write", models)
            found = check(models)
            bad = {name: why for name, why in found.items() if why}
            lost = _lost_in_files(beside, [models / name for name in bad])
        bad = {name: why for name, why in bad.items() if name not in lost}
        wrong += len(bad) + (not found)
        for name, why in bad.items():
            print(f"{release} {name}: {why}", flush=True)
        for name in lost:
            print(f"{release} {name}: {LOST}; it finds what is found here", flush=True)
        also = f", {len(lost)} in which the release lost its model" if lost else ""
        good = len(found) - len(bad) - len(lost)
        print(f"Keras {release}: {good} of {len(found)} files{also}", flush=True)
    return 1 if wrong else 0


def _lost_in_files(beside: Path, paths: list[Path]) -> list[str]:
    """Those files of which the release itself makes what was made here, and which say so."""
    if not paths:
        return []
    _in_release(beside, "--read", *paths)
    again = {path: path.with_name(f"{path.name}.npz") for path in paths}
    return [
        path.name
        for path, kept in again.items()
        if kept.exists() and not _differs(path, kept, LOST)
    ]


def _in_release(beside: Path, *arguments: str | Path) -> None:
    path = os.pathsep.join([str(beside), str(ROOT)])
    subprocess.run(
        [sys.executable, "-W", "ignore", __file__, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.DEVNULL,
        check=True,
    )


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if sys.argv[1:2] == ["--write"]:
        write(Path(sys.argv[2]))
        sys.exit(0)
    if sys.argv[1:2] == ["--read"]:
        read_again([Path(path) for path in sys.argv[2:]])
        sys.exit(0)
    sys.exit(main(sys.argv[1:] or RELEASES.split()))
