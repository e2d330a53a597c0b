"""Loading and saving through Keras, with orthwrap's classes known and errors of one line.

Keras is imported when a function is called, not before.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from orthwrap import needs
from orthwrap.custom_objects import CustomObjects, custom_objects_of
from orthwrap.errors import FileFault, OrthwrapError, listed
from orthwrap.opening import opened
from orthwrap.outputs import DEFAULT_SUFFIX, FORMATS, PathLike, as_path
from orthwrap.penalties.attachment import check_reference
from orthwrap.references import find, is_reference
from orthwrap.stores import hdf5
from orthwrap.stores.faults import reading
from orthwrap.stores.files import is_hdf5, open_file
from orthwrap.stores.replacing import replacing, scratch_folder
from orthwrap.upgrades.h5_file import STATE_ASIDE
from orthwrap.upgrades.training import spelled_out, without_metrics
from orthwrap.walker import Node


def load_model(
    path: PathLike,
    custom_objects: CustomObjects | None = None,
    *,
    unsafe_lambda: bool = False,
    **kwargs: Any,
) -> Any:
    """`keras.models.load_model`, for files of older Keras too, and with their compiled state.

    Keras 3 builds the optimizer of an `.h5` file for no variables at all, so that its state is
    lost and `fit` fails; here it is read as it was saved.

    Args:
        path: a `.keras`, `.h5` or `.hdf5` file, or a SavedModel folder.
        custom_objects: the file's own classes and functions: a mapping by name, or references
            `package.module:Name` (`package.module`: all that it defines), which are imported.
        unsafe_lambda: runs the code of Lambda layers that the file keeps; `safe_mode=False` too.
        **kwargs: passed on to Keras (`compile`, `safe_mode`).

    Raises:
        FileFault: Keras cannot load it; the message names what it lacks, and which layers use it.
        ValueFault: a reference in `custom_objects` leads nowhere.
    """
    path = as_path(path)
    unsafe = unsafe_lambda or kwargs.get("safe_mode") is False
    with opened(path) as source, contextlib.ExitStack() as stack:
        read = source.store.path  # of a file of an older Keras, its modernised copy
        if FORMATS.get(read.suffix) != source.store.format and not read.is_dir():
            # Keras goes by the suffix, and here it does not say what the file is.
            link = (
                stack.enter_context(scratch_folder())
                / f"model{DEFAULT_SUFFIX[source.store.format]}"
            )
            link.symlink_to(read.resolve())
            read = link
        model, _ = _load(read, path, custom_objects, unsafe, kwargs)
    return model


def load_compiled(
    path: Path,
    custom_objects: CustomObjects | None = None,
    *,
    unsafe_lambda: bool = False,
    shown: Path | None = None,
) -> tuple[Any, tuple[str, ...]]:
    """The model, compiled as the file says where that can be done; and notes where it cannot.

    `shown` is the file that errors name, where `path` is a copy of it.
    """
    shown = shown or path
    try:
        return _load(path, shown, custom_objects, unsafe_lambda, {}, without_unknown_metrics=True)
    except OrthwrapError as e:
        try:
            model, _ = _load(path, shown, custom_objects, unsafe_lambda, {"compile": False})
        except OrthwrapError:
            raise e from None
        return model, (f"the file's training configuration could not be used ({e})",)


def _load(
    path: Path,
    shown: Path,
    custom_objects: CustomObjects | None,
    unsafe_lambda: bool,
    kwargs: Mapping[str, Any],
    without_unknown_metrics: bool = False,
) -> tuple[Any, tuple[str, ...]]:
    given = custom_objects_of(custom_objects)
    root = _config_of(path, compiled=kwargs.get("compile", True))
    _refuse_code(root, shown, unsafe_lambda)
    import keras

    import orthwrap.regularizers  # noqa: F401  # registers the classes

    given = _known_objects(root, given, shown)
    notes: tuple[str, ...] = ()
    if without_unknown_metrics and is_hdf5(path):
        root, notes = _without_unknown_metrics(root, given)
    with _quiet_keras(), _readable(path, root) as readable:
        try:
            model = keras.models.load_model(
                readable, custom_objects=given, **{**kwargs, "safe_mode": not unsafe_lambda}
            )
        except OrthwrapError:
            raise
        except Exception as e:  # Keras raises every kind of exception for what it cannot load
            ours = _ours_within(e)
            if ours is not None:
                raise type(ours)(str(ours)) from e
            raise FileFault(f"Keras cannot load {shown}: {_first_line(e)}") from e
    if is_hdf5(path) and getattr(model, "compiled", False) and model.optimizer is not None:
        notes += _restore_optimizer(model, path)
    return model, notes


# What the file needs, found from its config before Keras is asked


def _config_of(path: Path, compiled: bool) -> Node:
    """The config that Keras will read, that of training with it only where Keras reads it too."""
    with reading(path):
        store = open_file(path)
    try:
        root = dict(store.root)
    finally:
        store.close()
    if not compiled:
        root.pop(needs.COMPILED, None)
    elif store.format == "h5":
        root[needs.COMPILED] = _training_of(path)
    return root


@contextlib.contextmanager
def _readable(path: Path, root: Node) -> Iterator[Path]:
    """The file, or a copy that is compiled as `root` says, in names that Keras can read.

    Only an `.h5` needs it; its losses must not be abbreviated.
    """
    training = root.get(needs.COMPILED)
    wanted = spelled_out(training) if training and is_hdf5(path) else None
    if wanted is None or wanted == _training_of(path):
        yield path
        return
    with scratch_folder() as folder:
        copy = folder / f"model{path.suffix}"
        shutil.copyfile(path, copy)
        with hdf5.open_hdf5(copy, "r+") as f:
            f.attrs.create("training_config", json.dumps(wanted), dtype=h5py.string_dtype())
        yield copy


def _training_of(path: Path) -> dict[str, Any] | None:
    """How an `.h5` says that its model was compiled; None where it says nothing readable."""
    with hdf5.open_hdf5(path) as f, contextlib.suppress(ValueError):
        training = json.loads(hdf5.text(f, "training_config") or "null")
        return training if isinstance(training, dict) else None
    return None


def _without_unknown_metrics(root: Node, given: Mapping[str, Any]) -> tuple[Node, tuple[str, ...]]:
    """The config without metrics that only `fit` would find to be unknown; and what they were."""
    import keras

    dropped: dict[str, None] = {}

    def is_known(name: str) -> bool:
        if name in given or name in ("accuracy", "acc", "crossentropy", "ce"):
            return True
        with contextlib.suppress(Exception):  # Keras raises one or another for an unknown name
            return keras.metrics.get(name) is not None
        dropped[name] = None
        return False

    training = without_metrics(root.get(needs.COMPILED) or {}, is_known)
    if not dropped:
        return root, ()
    named = ", ".join(map(repr, dropped))
    note = (
        f"the file's metric{'s' if len(dropped) > 1 else ''} {named} {_are(dropped)} not known "
        "here, so left out: give --custom-objects package.module:Name to keep "
        f"{'them' if len(dropped) > 1 else 'it'}"
    )
    return {**root, needs.COMPILED: training}, (note,)


def _refuse_code(root: Node, shown: Path, unsafe_lambda: bool) -> None:
    lost = needs.lost_code_in(root)
    if lost:
        raise FileFault(
            f"{shown} keeps a lambda as activation of {listed(lost, _MOST_PLACES)}, in a form "
            "that Keras cannot load again: save the model with a named function instead"
        )
    places = () if unsafe_lambda else needs.code_in(root)
    if places:
        raise FileFault(
            f"{shown} keeps code of its own ({'a lambda' if len(places) == 1 else 'lambdas'}) in "
            f"{listed(places, _MOST_PLACES)}, which is not run by default: if you trust whoever "
            "made the file, give --unsafe-lambda (unsafe_lambda=True in Python)"
        )


def _known_objects(root: Node, given: dict[str, Any], shown: Path) -> dict[str, Any]:
    """What was given, also under the names with a package that this file has for it.

    Raises:
        FileFault: the config names what neither Keras nor the user knows.
    """
    import keras

    spaces = [getattr(keras, name) for name in _NAMESPACES]
    spaces.append(keras.optimizers.schedules)
    builtin = {name.lower() for space in spaces for name in dir(space)} | _MODELS
    getters = {
        "activation": keras.activations.get,
        "initializer": keras.initializers.get,
        "regularizer": keras.regularizers.get,
        "constraint": keras.constraints.get,
        "loss": keras.losses.get,
    }
    found = dict(given)

    def lookup(need: needs.Need) -> str | None:
        names = (need.name, *need.others)
        if any(keras.saving.get_registered_object(n, found) is not None for n in names):
            return "given"
        bare = need.name.rpartition(">")[2]
        if need.name != bare and bare in given:
            found[need.name] = given[bare]
            return "given"
        if need.kind == "regularizer" and is_reference(need.name):
            return None if find(need.name, found) is None else "given"
        if need.kind in getters:
            with contextlib.suppress(Exception):  # each raises its own for an unknown name
                return "keras" if getters[need.kind](need.name) is not None else None
            return None
        package, _, inner = (need.module or "keras").partition(".")
        if package in ("keras_hub", "keras_cv", "keras_nlp") or inner.startswith("src."):
            return "keras"  # Keras looks these up by module
        known = package in ("keras", "builtins") and need.name.lower() in builtin
        return "keras" if known else None

    users: dict[str, dict[str, None]] = {}
    for need in needs.unknown(root, lookup):
        users.setdefault(need.name, {})[need.where] = None
    if users:
        named = "; ".join(
            f"{name!r} (in {listed(tuple(places), _MOST_PLACES)})" for name, places in users.items()
        )
        raise FileFault(
            f"Keras cannot load {shown}: it needs {named}, which {_are(users)} not known here: "
            "give --custom-objects package.module:Name (custom_objects= in Python)"
        )
    return found


# Where Keras keeps what a config may name.
_NAMESPACES = (
    *("layers", "models", "initializers", "regularizers", "constraints", "activations"),
    *("optimizers", "losses", "metrics", "dtype_policies", "quantizers", "random"),
)
_MODELS = frozenset(("functional", "model", "sequential"))
_MOST_PLACES = 10


def _are(things: Sized) -> str:
    return "is" if len(things) == 1 else "are"


def _restore_optimizer(model: Any, path: Path) -> tuple[str, ...]:
    """An optimizer for the model's own variables, in the state the file has."""
    from orthwrap.stores.compiled import again, set_optimizer

    optimizer = again(model.optimizer)
    optimizer.build(model.trainable_variables)
    set_optimizer(model, optimizer)
    with hdf5.open_hdf5(path) as f:
        group = hdf5.child_group(f, "optimizer_weights") or hdf5.child_group(f, STATE_ASIDE)
        if group is None:
            return ()
        names = hdf5.names(group, "weight_names")
        found = [hdf5.dataset(group, name) for name in names]
        saved = [np.asarray(d) for d in found if d is not None]
    arranged = _arrange(saved, names, optimizer.variables, model.trainable_variables)
    if arranged is None:
        return ("the file's optimizer state does not fit this optimizer: it starts afresh",)
    for variable, value in zip(optimizer.variables, arranged, strict=True):
        if value is not None:
            variable.assign(value)
    return ()


def _arrange(
    saved: Sequence[Any], names: Sequence[str], variables: Sequence[Any], trained: Sequence[Any]
) -> list[Any] | None:
    """The saved arrays in the optimizer's order; None for what the file does not have.

    Keras 3 writes iteration, learning rate, then each variable's slots together. Keras 2.11 left
    out the learning rate (`Adam/m/dense/kernel:0`, `Adam/v/dense/kernel:0`, …); before, Keras 2
    wrote the first slot of every variable, then the second (`Adam/dense/kernel/m:0`, …), with
    placeholders of one number for slots that were not in use; RMSprop and its like of Keras 2.1
    came without the iteration.
    """
    shapes = [tuple(v.shape) for v in variables]
    if [a.shape for a in saved] == shapes:
        return list(saved)
    # A learning rate that follows a schedule is no variable.
    own = 2 if len(variables) > 1 and variables[1].name == "learning_rate" else 1
    slots, count = len(shapes) - own, len(trained)
    if not saved or not count or slots % count:
        return None
    if len(saved) == 1 + slots + count and all(a.shape == (1,) for a in saved[-count:]):
        saved = saved[:-count]
    iteration: Any = saved[0]
    ordered = list(saved[1:])
    if len(saved) == slots:
        iteration, ordered = None, list(saved)
    if len(ordered) != slots:
        return None
    first = names[len(saved) - slots].rpartition("/")[2].partition(":")[0] if slots else ""
    if slots and first != trained[0].name:
        per_variable = slots // count
        ordered = [ordered[s * count + i] for i in range(count) for s in range(per_variable)]
    arranged = [iteration, *[None] * (own - 1), *ordered]
    fits = all(a is None or a.shape == s for a, s in zip(arranged, shapes, strict=True))
    return arranged if fits else None


def save_model(model: Any, target: Path, like: Path | None = None) -> None:
    """Saves a live model, whole or not at all, in the format of the suffix.

    `like` is the path whose suffix says the format, where the target's own does not.

    Raises:
        ValueFault: a kernel carries a function that a file cannot refer to.
        FileFault: Keras cannot save it.
    """
    from orthwrap.stores.live import regularizers_of

    for where, regularizer in regularizers_of(model):
        attachment = getattr(regularizer, "attachment", None)
        if attachment is not None:
            check_reference(attachment.foreign, f"{where} has {attachment.name!r}")
    with replacing(target) as sibling, _quiet_keras():
        written = sibling if like is None else sibling.with_name(f"model{like.suffix}")
        try:
            model.save(written)
            written.replace(sibling)
        except OSError:
            raise
        except Exception as e:  # a user's get_config may raise anything
            raise FileFault(
                f"Keras cannot save the model as {target.name}: {_first_line(e)}"
            ) from e


def _ours_within(error: BaseException) -> OrthwrapError | None:
    """The error that orthwrap raised in the first place, if Keras wrapped one."""
    cause = error.__cause__ or error.__context__
    while cause is not None and not isinstance(cause, OrthwrapError):
        cause = cause.__cause__ or cause.__context__
    return cause


def _first_line(error: BaseException) -> str:
    """What went wrong, without the configs that Keras puts around it."""
    text = str(error).rpartition("Exception encountered: ")[2]
    text = (text.strip().splitlines() or [type(error).__name__])[0]
    return text if len(text) <= 300 else text[:297] + "…"


@contextlib.contextmanager
def _quiet_keras() -> Iterator[None]:
    """Keras warns and logs what the report says better: that .h5 is a legacy format, say."""
    from absl import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
