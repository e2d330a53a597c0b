"""One input through every verb: a success or one line, and nothing else is touched."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orthwrap
from orthwrap.loading.loading import _config_of
from orthwrap.model_config import needs
from orthwrap.report.terminal import console, render, render_compare
from orthwrap.rules.file import read_rules
from orthwrap.training.loop.checkpoints import CheckpointFolder
from tests.fuzz import checkpoints, model_configs, structures, toml_rules, training_configs, zips
from tests.fuzz.values import Draw
from tests.support.hostile import tell
from tests.support.samples import small_file


def look(report: Any, renderer: Callable[[Any, int], Any]) -> None:
    """The report as JSON and as a table."""
    json.dumps(report.to_json(), allow_nan=False)
    screen = io.StringIO()
    console(screen).print(renderer(report, 80))
    assert "\x1b" not in screen.getvalue(), "an escape sequence reaches the terminal"


def on_file(path: Path, out: Path) -> list[str]:
    """The verbs on a model file."""
    new, plain = out / f"new{path.suffix}", out / f"plain{path.suffix}"

    def apply() -> None:
        look(orthwrap.apply(path, new, target="*", force=True, scale="preserve").report, render)
        orthwrap.strip(new, plain, force=True)

    def what_it_needs() -> None:
        root = _config_of(path, compiled=True)
        needs.code_in(root), needs.lost_code_in(root), needs.unknown(root, lambda need: None)

    return [
        tell(lambda: look(orthwrap.inspect(path), render)),
        tell(apply),
        tell(lambda: look(orthwrap.apply(path, dry_run=True, measure=False).report, render)),
        tell(lambda: look(orthwrap.strip(path, new, force=True).report, render)),
        tell(lambda: look(orthwrap.compare(path, path), render_compare)),
        tell(lambda: look(orthwrap.upgrade(path, new, force=True).report, render)),
        tell(what_it_needs),
    ]


def on_rules(path: Path, out: Path) -> list[str]:
    """A rules file, planned on a small model."""

    def apply() -> None:
        rules = read_rules(path)
        done = orthwrap.apply(small_file(".h5"), dry_run=True, measure=False, rules=rules)
        look(done.report, render)

    return [tell(apply)]


def on_checkpoints(path: Path, out: Path) -> list[str]:
    """A folder that a run would go on from."""

    def resume() -> None:
        folder = CheckpointFolder(path)
        try:
            state = folder.open(resume=True)
            if state is None:
                return
            assert state.place
            folder.read()
            if state.best is not None:
                folder.read_best(state.best[0])
        finally:
            getattr(folder, "close", lambda: None)()  # where it keeps other runs out

    return [tell(resume)]


Trial = tuple[Callable[[Draw, Path], Path], Callable[[Path, Path], list[str]]]
KINDS: dict[str, Trial] = {
    "model_configs": (model_configs.write, on_file),
    "training_configs": (training_configs.write, on_file),
    "checkpoints": (checkpoints.write, on_checkpoints),
    "toml_rules": (toml_rules.write, on_rules),
    "zips": (zips.write, on_file),
    "structures": (structures.write, on_file),
}


def attempt(kind: str, seed: int, base: Path, watched: Callable[[], Any]) -> list[str]:
    """What was said of the input of a seed.

    Args:
        kind: one of `KINDS`.
        seed: of the input.
        base: a folder to work in.
        watched: a context in which nothing but the input may be touched.

    Raises:
        AssertionError: something of what is promised does not hold.
        Exception: what a verb raised that is none of orthwrap's errors.
    """
    make, run = KINDS[kind]
    folder, out = base / "case", base / "out"
    for place in (folder, out):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    (base / "secret").write_bytes(bytes(64))
    path = make(Draw(f"{kind} {seed}"), folder)
    before = contents(base, out)
    with watched():
        said = run(path, out)
    assert contents(base, out) == before, "something beside the output has changed"
    left = {p.name for p in out.iterdir()}
    assert left <= {f"{name}{path.suffix}" for name in ("new", "plain")}, f"left behind: {left}"
    return said


def contents(base: Path, out: Path) -> dict[str, tuple[int, str]]:
    """Everything below a folder but the outputs: its kind, and what it holds."""
    found = {}
    for path in sorted(base.rglob("*")):
        if path == out or out in path.parents:
            continue
        mode = path.lstat().st_mode
        held = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(mode) else ""
        found[str(path)] = (mode, held)
    return found
