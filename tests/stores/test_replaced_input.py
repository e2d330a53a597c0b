"""An input that is replaced or written to while it is read: one line, and nothing is written."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import orthwrap
from orthwrap import surgery
from orthwrap.report import make
from orthwrap.stores.h5 import H5Store
from orthwrap.stores.keras_zip import KerasStore
from orthwrap.verbs import compare
from tests.support.samples import nested_file, small_file


def another(path: Path) -> None:
    """Another file takes its place, of the same size and date."""
    dates = path.stat()
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    other.replace(path)


def longer(path: Path) -> None:
    """Somebody is still writing to it."""
    dates = path.stat()
    with path.open("ab") as f:
        f.write(b"more")
    os.utime(path, ns=(dates.st_atime_ns, dates.st_mtime_ns))


def newer(path: Path) -> None:
    """As long as before, with other content."""
    with path.open("r+b") as f:
        f.seek(path.stat().st_size // 2)
        f.write(b"\x01")
    later = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))


def gone(path: Path) -> None:
    path.unlink()


CHANGES = [another, longer, newer, gone]


def before_call(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, do: Callable[[], None]
) -> None:
    real = getattr(owner, name)

    def first(*args: Any, **words: Any) -> Any:
        do()
        return real(*args, **words)

    monkeypatch.setattr(owner, name, first)


def refused(call: Callable[[], Any], path: Path) -> None:
    with pytest.raises(orthwrap.FileFault) as caught:
        call()
    said = str(caught.value)
    assert said.startswith(f"{path} was changed or replaced while it was read: ")
    assert not [p for p in path.parent.iterdir() if "out" in p.name]


@pytest.fixture(params=[".h5", ".keras"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"m{request.param}"
    path.write_bytes(small_file(request.param).read_bytes())
    return path


@pytest.mark.parametrize("change", CHANGES)
def test_after_its_figures_were_read(model: Path, monkeypatch, change: Any) -> None:
    before_call(monkeypatch, make, "together", lambda: change(model))
    refused(lambda: orthwrap.inspect(model), model)


@pytest.mark.parametrize("change", [another, longer, newer])
@pytest.mark.parametrize("verb", [orthwrap.apply, orthwrap.strip])
def test_before_it_is_copied(model: Path, monkeypatch, change: Any, verb: Any) -> None:
    for store in (H5Store, KerasStore):
        before_call(monkeypatch, store, "check_copy", lambda: change(model))
    refused(lambda: verb(model, model.with_name(f"out{model.suffix}")), model)


def test_before_it_is_converted(model: Path, monkeypatch) -> None:
    suffix = {".h5": ".keras", ".keras": ".h5"}[model.suffix]
    before_call(monkeypatch, surgery, "scratch_folder", lambda: longer(model))
    refused(lambda: orthwrap.apply(model, model.with_name(f"out{suffix}")), model)


def test_before_it_is_copied_as_it_is(model: Path, monkeypatch) -> None:
    before_call(monkeypatch, surgery, "replacing", lambda: another(model))
    refused(lambda: orthwrap.upgrade(model, model.with_name(f"out{model.suffix}")), model)


def test_while_it_is_compared(model: Path, monkeypatch) -> None:
    before_call(monkeypatch, compare, "compare_kernel", lambda: longer(model))
    refused(lambda: orthwrap.compare(nested_file(".h5"), model, measure=False), model)


def test_a_part_of_an_unpacked_model(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "m.keras"
    with zipfile.ZipFile(small_file(".keras")) as z:
        z.extractall(folder)
    before_call(monkeypatch, make, "together", lambda: another(folder / "model.weights.h5"))
    refused(lambda: orthwrap.inspect(folder), folder)


def test_an_input_may_change_once_its_copy_is_there(model: Path, monkeypatch) -> None:
    real = Path.replace

    def then(self: Path, target: Path) -> Path:
        done = real(self, target)
        if self.parent.name.endswith(".tmp"):
            longer(model)
        return done

    monkeypatch.setattr(Path, "replace", then)
    out = orthwrap.apply(model, model.with_name(f"out{model.suffix}"), measure=False).output
    assert orthwrap.inspect(out, measure=False).summary["regularized"] == 3
