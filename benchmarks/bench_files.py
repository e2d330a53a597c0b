"""What the commands cost on files, as ratios to a script that does the same with Keras.

    python benchmarks/bench_files.py [--quick] [--cores 2] [--output FILE]

Whole processes are timed, from start to end, in turn with their yardstick, so that what else the
machine does touches both alike; a ratio is the median over rounds. The yardsticks:

(a) a script that loads a ResNet-50, clones it with regularizers and saves it, with Keras alone;
(b) a script that loads it with Keras and computes the same figures by the same functions;
(c) `python -c pass`.

Memory is the peak of resident pages of each process. BLAS has one thread everywhere, as in the
commands themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import bind, machine, parser, verdict, write

CLONE = """
import sys, warnings
warnings.simplefilter("ignore")
import keras
model = keras.saving.load_model(sys.argv[1])
def with_regularizer(layer):
    config = layer.get_config()
    if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
        config["kernel_regularizer"] = {"class_name": "L2", "config": {"l2": 1e-3}}
    return type(layer).from_config(config)
new = keras.models.clone_model(model, clone_function=with_regularizer)
new.set_weights(model.get_weights())
new.save(sys.argv[2])
"""

FIGURES = """
import sys, warnings
warnings.simplefilter("ignore")
import keras, numpy as np
from orthwrap.model_config.layers import LAYER_TYPES
from orthwrap.report.measure import measure
model = keras.saving.load_model(sys.argv[1])
count = 0
for layer in model.layers:
    if type(layer).__name__ in ("Conv2D", "Dense"):
        (spec,) = LAYER_TYPES[type(layer).__name__].kernels
        kernel = np.asarray(layer.kernel)
        measure(kernel, spec.layout(layer.get_config(), kernel.shape))
        count += 1
assert count == 54
"""

RESNET = """
import sys, warnings
warnings.simplefilter("ignore")
import keras
model = keras.applications.ResNet50(weights=None)
for path in sys.argv[1:]:
    model.save(path)
"""


@dataclass
class Row:
    """One line of the table."""

    section: str
    name: str
    value: float
    unit: str
    ratio: float | None
    target: str
    met: bool | None


@dataclass(frozen=True)
class Run:
    """One finished process."""

    seconds: float
    megabytes: float  # peak


class Bench:
    def __init__(self, rounds: int, folder: Path) -> None:
        self.rounds = rounds
        self.folder = folder
        self.rows: list[Row] = []

    def run(self, *words: object) -> Run:
        """A Python process, which must succeed."""
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OPENBLAS_NUM_THREADS": "1"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled once, as what is installed is
        with tempfile.TemporaryFile() as said:
            start = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, *map(str, words)], stdout=said, stderr=said, env=environment
            )
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                said.seek(0)
                raise SystemExit(f"{' '.join(map(str, words))}\n{said.read().decode()}")
        return Run(seconds, usage.ru_maxrss / 1024)

    def in_turn(self, commands: dict[str, Sequence[object]], rounds: int = 0) -> dict[str, Any]:
        """Runs of each command, one of each per round, the first round thrown away."""
        runs: dict[str, list[Run]] = {name: [] for name in commands}
        for number in range((rounds or self.rounds) + 1):
            for name, words in commands.items():
                done = self.run(*words)
                if number:
                    runs[name].append(done)
        return runs

    def compare(
        self, section: str, runs: dict[str, list[Run]], against: str, targets: dict[str, float]
    ) -> None:
        """A row for each command: its time, and the ratio to the yardstick's in its round."""
        yard = [r.seconds for r in runs[against]]
        self.add(section, against, statistics.median(yard), "s", None)
        for name, done in runs.items():
            if name != against:
                seconds = [r.seconds for r in done]
                ratio = statistics.median(s / y for s, y in zip(seconds, yard, strict=True))
                self.add(section, name, statistics.median(seconds), "s", ratio, targets.get(name))

    def add(
        self,
        section: str,
        name: str,
        value: float,
        unit: str,
        ratio: float | None,
        at_most: float | None = None,
    ) -> None:
        """A row; the target is the ratio's where there is one, else the value's."""
        judged = value if ratio is None else ratio
        met = None if at_most is None else judged <= at_most
        target = "" if at_most is None else f"≤ {at_most:g}"
        self.rows.append(Row(section, name, value, unit, ratio, target, met))


# --- sections -------------------------------------------------------------------------------


def resnet(bench: Bench) -> None:
    """(a) and (b)."""
    files = [bench.folder / "resnet.h5", bench.folder / "resnet.keras"]
    bench.run("-c", RESNET, *files)
    for path in files:
        out = bench.folder / f"out{path.suffix}"
        apply = ("-m", "orthwrap", "apply", path, "-o", out, "--force", "--quiet")
        section = f"apply, ResNet-50 {path.suffix}, {path.stat().st_size >> 20} MB"
        runs = bench.in_turn(
            {
                "Keras: load, clone, save": ("-c", CLONE, path, out),
                "apply, with figures": apply,
                "apply --no-measure": (*apply, "--no-measure"),
            }
        )
        targets = {"apply, with figures": 0.20, "apply --no-measure": 0.10}
        bench.compare(section, runs, "Keras: load, clone, save", targets)
        for name, done in runs.items():
            peak = statistics.median(r.megabytes for r in done)
            limit = 150.0 if name == "apply, with figures" else None
            bench.add(section, f"{name}: peak", peak, "MB", None, limit)
        section = f"inspect, ResNet-50 {path.suffix}"
        runs = bench.in_turn(
            {
                "Keras: load, same figures": ("-c", FIGURES, path),
                "inspect": ("-m", "orthwrap", "inspect", path, "--quiet"),
            }
        )
        bench.compare(section, runs, "Keras: load, same figures", {"inspect": 0.35})


def start_up(bench: Bench) -> None:
    """(c)"""
    runs = bench.in_turn(
        {"python -c pass": ("-c", "pass"), "orthwrap --help": ("-m", "orthwrap", "--help")},
        rounds=3 * bench.rounds,
    )
    pairs = zip(runs["orthwrap --help"], runs["python -c pass"], strict=True)
    more = statistics.median(a.seconds - b.seconds for a, b in pairs)
    bench.add("start", "--help, more than python -c pass", more, "s", None, 0.35)


def dense_file(bench: Bench, path: Path, shapes: Sequence[tuple[int, int]]) -> Path:
    """A model of Dense layers; made by another process, for a peak counts what its parent had."""
    bench.run(__file__, "--make", path, json.dumps(shapes))
    return path


def make_dense_file(path: Path, shapes: Sequence[tuple[int, int]]) -> None:
    """The same, here; without Keras."""
    import h5py
    import numpy as np

    layers: list[dict[str, Any]] = [
        {"class_name": "InputLayer", "config": {"batch_shape": [None, shapes[0][0]]}}
    ]
    for i, (_, units) in enumerate(shapes):
        config = {"name": f"d{i}", "trainable": True, "units": units, "kernel_regularizer": None}
        layers.append({"class_name": "Dense", "config": config})
    config = {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}
    rng = np.random.default_rng(0)
    weights = path if path.suffix == ".h5" else path.with_suffix(".weights.h5")
    with h5py.File(weights, "w") as f:
        if path.suffix == ".h5":
            f.attrs["model_config"] = json.dumps(config)
            f.attrs["keras_version"] = "3.9.0"
            f.create_group("model_weights").attrs["layer_names"] = [
                f"d{i}".encode() for i in range(len(shapes))
            ]
        for i, shape in enumerate(shapes):
            if path.suffix == ".h5":
                group = f.create_group(f"model_weights/d{i}")
                group.attrs["weight_names"] = [f"d{i}/kernel:0".encode()]
                name = f"model_weights/d{i}/d{i}/kernel:0"
            else:
                name = f"layers/dense{f'_{i}' if i else ''}/vars/0"
            data = f.create_dataset(name, shape, "float32")
            for start in range(0, shape[0], 1024):
                stop = min(start + 1024, shape[0])
                data[start:stop] = rng.standard_normal((stop - start, shape[1]), "float32")
    if path.suffix == ".keras":
        with zipfile.ZipFile(path, "w") as z:
            z.writestr("config.json", json.dumps(config))
            z.writestr("metadata.json", '{"keras_version": "3.9.0"}')
            z.write(weights, "model.weights.h5")
        weights.unlink()


def size(bench: Bench, counts: Sequence[int]) -> None:
    """Time by file size, and memory."""
    for suffix in (".h5", ".keras"):
        section = f"apply --no-measure by size, {suffix}"
        out = bench.folder / f"out{suffix}"
        files = {
            n: dense_file(bench, bench.folder / f"size{n}{suffix}", [(2560, 2560)] * n)
            for n in counts
        }
        commands = {
            str(n): (
                *("-m", "orthwrap", "apply", path, "-o", out),
                *("--force", "--quiet", "--no-measure"),
            )
            for n, path in files.items()
        }
        runs = bench.in_turn(commands)
        first: Run | None = None
        last: tuple[float, float] | None = None
        for n, path in files.items():
            done = runs[str(n)]
            now = Run(*(statistics.median(v) for v in zip(*map(tuple_of, done), strict=True)))
            megabytes = path.stat().st_size / 2**20
            bench.add(section, f"{megabytes:.0f} MB", now.seconds, "s", None)
            if last is not None:
                rate = 1000 * (now.seconds - last[0]) / (megabytes - last[1])
                bench.add(section, "each MB more", rate, "ms", None)
            last = now.seconds, megabytes
            first = first or now
            ratio = now.megabytes / first.megabytes
            bench.add(section, f"{megabytes:.0f} MB: peak", now.megabytes, "MB", ratio, 1.2)
            path.unlink()
        out.unlink()


def tuple_of(run: Run) -> tuple[float, float]:
    return run.seconds, run.megabytes


def memory(bench: Bench) -> None:
    """Peaks with figures, for the largest kernels that are exact."""
    for shape in ((2048, 2048), (20000, 2048), (2048, 20000), (20000, 4096)):
        path = dense_file(bench, bench.folder / "kernel.h5", [shape])
        words = ("-m", "orthwrap", "inspect", path, "--quiet")
        done = bench.run(*words)
        exact = min(shape) <= 2048
        name = f"Dense {shape[0]}×{shape[1]}{'' if exact else ', estimated'}"
        bench.add("inspect, one kernel", name, done.seconds, "s", None)
        bench.add("inspect, one kernel", f"{name}: peak", done.megabytes, "MB", None, 150.0)
        path.unlink()


# --- the whole ------------------------------------------------------------------------------


def show(rows: Sequence[Row], host: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{host['cpu']}, {host['cores']} cores", title_justify="left")
    for name in ("", "", "", "ratio", "target", ""):
        table.add_column(name, justify="right" if name == "ratio" else "left")
    section = ""
    for row in rows:
        table.add_row(
            row.section if row.section != section else "",
            row.name,
            f"{row.value:.3g} {row.unit}",
            "" if row.ratio is None else f"{row.ratio:.3f}",
            row.target,
            verdict(row.met),
        )
        section = row.section
    Console(width=None if os.isatty(1) else 130).print(table)


PARTS: dict[str, Callable[[Bench, bool], None]] = {
    "start": lambda bench, quick: start_up(bench),
    "memory": lambda bench, quick: memory(bench),
    "resnet": lambda bench, quick: resnet(bench),
    "size": lambda bench, quick: size(bench, (4, 12) if quick else (4, 12, 41)),
}


def main() -> None:
    arguments = parser(__doc__, "fewer rounds, no 1 GB files", "files.json")
    arguments.add_argument("--only", nargs="+", choices=PARTS, help="these parts; all by default")
    arguments.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.make:
        make_dense_file(Path(options.make[0]), json.loads(options.make[1]))
        return
    bind(options.cores)
    host = machine()
    with tempfile.TemporaryDirectory(prefix="orthwrap-bench-") as folder:
        bench = Bench(2 if options.quick else 5, Path(folder))
        for name in options.only or PARTS:
            PARTS[name](bench, options.quick)
    show(bench.rows, host)
    write(options.output, host, rows=[asdict(row) for row in bench.rows])


if __name__ == "__main__":
    main()
