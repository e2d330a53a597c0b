"""Loading and saving through Keras, with orthwrap's classes known and errors of one line.

Keras is imported when a function is called, not before.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orthwrap.errors import FileFault, OrthwrapError, backend_named
from orthwrap.loading.needed import known_metrics_only, known_objects, refuse_code
from orthwrap.loading.optimizer_state import restore_optimizer
from orthwrap.model_config import needs
from orthwrap.model_config.policy import policies_in
from orthwrap.model_config.tree import Node
from orthwrap.opening import opened
from orthwrap.rules.custom_objects import CustomObjects, custom_objects_of
from orthwrap.stores.faults import reading
from orthwrap.stores.files import open_file
from orthwrap.stores.formats import new_suffix, suffixes
from orthwrap.stores.h5 import H5Store
from orthwrap.stores.h5_edit import write_compiled
from orthwrap.stores.outputs import PathLike, as_path
from orthwrap.stores.replacing import scratch_folder
from orthwrap.text import said_first
from orthwrap.upgrades.models.compile_config import spelled_out


def load_model(
    path: PathLike,
    custom_objects: CustomObjects | None = None,
    *,
    unsafe_lambda: bool = False,
    **kwargs: Any,
) -> Any:
    """`keras.models.load_model`, for files of older Keras too, and with their compiled state.

    Keras 3 builds the optimizer of an `.h5` file for no variables at all, so that its state is
    lost and `fit` fails; here it is read as it was saved. The model is made under the dtype policy
    that it was made under. Optimizer state that does not fit is a `UserWarning`.

    Args:
        path: a `.keras`, `.h5` or `.hdf5` file, or a SavedModel folder.
        custom_objects: the file's own classes and functions: a mapping by name, or references
            `package.module:Name` (`package.module`: all that it defines), which are imported.
        unsafe_lambda: runs the code of Lambda layers that the file keeps; `safe_mode=False` too.
        **kwargs: passed on to Keras (`compile`, `safe_mode`).

    Raises:
        FileFault: Keras cannot load it; the message names what it lacks, and which layers use it,
            or the class that failed.
        ValueFault: a reference in `custom_objects` leads nowhere.
    """
    path = as_path(path)
    unsafe = unsafe_lambda or kwargs.get("safe_mode") is False
    with opened(path) as source, contextlib.ExitStack() as stack:
        read = source.store.path  # of a file of an older Keras, its modernised copy
        if suffixes().get(read.suffix) != source.store.format and not read.is_dir():
            # Keras goes by the suffix, and here it does not say what the file is.
            folder = stack.enter_context(scratch_folder())
            link = folder / f"model{new_suffix(source.store.format)}"
            link.symlink_to(read.resolve())
            read = link
        model, notes = _load(read, path, custom_objects, unsafe, kwargs)
    for note in notes:  # of optimizer state that is lost; a verb has them in its report
        warnings.warn(f"{path}: {note}", stacklevel=2)
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
    root, format = _config_of(path, compiled=kwargs.get("compile", True))
    saved = root.get(needs.COMPILED)
    refuse_code(root, shown, unsafe_lambda)
    with backend_named():
        import orthwrap.constraints
        import orthwrap.regularizers  # noqa: F401  # registers the classes

    given = known_objects(root, given, shown)
    notes: tuple[str, ...] = ()
    if without_unknown_metrics and format == "h5":
        root, notes = known_metrics_only(root, given)
    with _quiet_keras(), _readable(path, root, saved, format) as readable:
        try:
            words = {"custom_objects": given, **kwargs, "safe_mode": not unsafe_lambda}
            model, lost = _under_its_policy(readable, policies_in(root), words)
        except OrthwrapError:
            raise
        except Exception as e:  # Keras raises every kind of exception for what it cannot load
            ours = _ours_within(e)
            if ours is not None:
                raise type(ours)(str(ours)) from e
            from orthwrap.live.theirs import in_class

            where, raised = in_class(e)
            raise FileFault(f"Keras cannot load {shown}{where}: {_keras_reason(raised)}") from e
    notes += lost
    if format == "h5" and getattr(model, "compiled", False) and model.optimizer is not None:
        notes += restore_optimizer(model, path)
    return model, notes


def _under_its_policy(
    path: Path, policies: Sequence[str], words: Mapping[str, Any]
) -> tuple[Any, tuple[str, ...]]:
    """The model, made and compiled under the dtype policy that it was made under.

    Its optimizer's state tells, where there is one: of `mixed_float16` it counts scaled losses. A
    policy under which Keras skips it is the wrong one, if there is another under which it does not.
    """
    import keras

    from orthwrap.live.compiled import as_policy

    found = []
    for policy in policies or (None,):
        with as_policy(policy), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = keras.models.load_model(path, **words)
        skipped = [str(w.message) for w in caught if _SKIPPED in str(w.message)]
        if not skipped:
            return model, ()
        found.append((model, skipped[0]))
    model, why = found[0]
    if _NOT_TRAINED.search(why):
        return model, ()  # the optimizer of the file had not trained: it starts as it was
    return model, (f"the optimizer's state starts afresh: {_reason_of_skipping(why)}",)


_SKIPPED = "Skipping variable loading for optimizer"
_NOT_TRAINED = re.compile(r"saved optimizer has [012] variables")  # iteration and learning rate


def _reason_of_skipping(message: str) -> str:
    """What Keras says of it: of how many variables are how many."""
    return message.partition("because ")[2].partition(". ")[0].strip(" .") or message


# What the file needs, found from its config before Keras is asked


def _config_of(path: Path, compiled: bool) -> tuple[Node, str]:
    """The config that Keras will read, that of training with it only where Keras reads it too.

    And the format that it is in.
    """
    with reading(path), contextlib.closing(open_file(path)) as store:
        root = dict(store.root)
        if not compiled:
            root.pop(needs.COMPILED, None)
        elif isinstance(store, H5Store):
            with contextlib.suppress(FileFault):  # Keras says what is wrong with it
                root[needs.COMPILED] = store.training_config()
    return root, store.format


@contextlib.contextmanager
def _readable(path: Path, root: Node, saved: Any, format: str) -> Iterator[Path]:
    """The file, or a copy that is compiled as `root` says, in names that Keras can read.

    Only an `.h5` needs it; its losses must not be abbreviated. `saved` is what the file says.
    """
    training = root.get(needs.COMPILED)
    wanted = spelled_out(training) if training and format == "h5" else None
    if wanted is None or wanted == saved:
        yield path
        return
    with scratch_folder() as folder:
        copy = folder / f"model{path.suffix}"
        write_compiled(path, copy, wanted)
        yield copy


def _ours_within(error: BaseException) -> OrthwrapError | None:
    """The error that orthwrap raised in the first place, if Keras wrapped one."""
    cause = error.__cause__ or error.__context__
    while cause is not None and not isinstance(cause, OrthwrapError):
        cause = cause.__cause__ or cause.__context__
    return cause


def _keras_reason(error: BaseException) -> str:
    """What went wrong, without the configs that Keras puts around it."""
    text = str(error).rpartition("Exception encountered: ")[2]
    text = said_first(text) or type(error).__name__
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
