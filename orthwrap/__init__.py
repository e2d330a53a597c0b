"""orthwrap: orthogonality regularization for a Keras model you already have.

    import orthwrap

    result = orthwrap.apply("model.h5", target="all-conv")      # file → file, without Keras
    result = orthwrap.apply(model, regularizer="srip")          # model → new model
    report = orthwrap.inspect(model)

Importing orthwrap imports neither Keras nor TensorFlow. Once Keras is imported, in either order,
files that carry orthwrap's regularizers load with plain `keras.models.load_model`.
"""

from __future__ import annotations

import orthwrap._program  # noqa: F401  # before all else

# isort: split
import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from orthwrap._version import __version__
from orthwrap.errors import (
    FileFault,
    Interrupted,
    NoMatchError,
    OrthwrapError,
    RebuildError,
    UsageError,
    ValueFault,
)

if TYPE_CHECKING:
    from orthwrap.constraints import OrthogonalityConstraint
    from orthwrap.loading.loading import load_model
    from orthwrap.penalties.penalty import Meaning, Penalty
    from orthwrap.penalties.table import register_penalty
    from orthwrap.regularizers import OrthogonalityRegularizer, regularizer
    from orthwrap.report.record import Report
    from orthwrap.rules.rule import Rule
    from orthwrap.rules.schedules import Schedule
    from orthwrap.training.factors.schedule_callback import FactorSchedule
    from orthwrap.training.goal.goal_callback import Goal
    from orthwrap.training.pull.pull_callback import Pull
    from orthwrap.training.settings import TrainingWords
    from orthwrap.verbs.apply import apply
    from orthwrap.verbs.bench import bench
    from orthwrap.verbs.check import check
    from orthwrap.verbs.compare import compare
    from orthwrap.verbs.endings import Result
    from orthwrap.verbs.finetune import finetune
    from orthwrap.verbs.inspect import inspect
    from orthwrap.verbs.strip import strip
    from orthwrap.verbs.upgrade import upgrade

    # Made from the penalties' table, which no type checker reads; they are called alike.
    SO = DSO = MC = SRIP = LOrth = OffDiag = Cosine = Frobenius = OrthogonalityRegularizer
    Spectral = Band = OrthogonalityRegularizer

_VERBS = ("apply", "bench", "check", "compare", "finetune", "inspect", "strip", "upgrade")
_WHERE = {
    "OrthogonalityConstraint": "orthwrap.constraints",
    "Report": "orthwrap.report.record",
    "Rule": "orthwrap.rules.rule",
    **dict.fromkeys(("OrthogonalityRegularizer", "regularizer"), "orthwrap.regularizers"),
    **dict.fromkeys(("Meaning", "Penalty"), "orthwrap.penalties.penalty"),
    "register_penalty": "orthwrap.penalties.table",
    "Result": "orthwrap.verbs.endings",
    **{verb: f"orthwrap.verbs.{verb}" for verb in _VERBS},
    "FactorSchedule": "orthwrap.training.factors.schedule_callback",
    "Goal": "orthwrap.training.goal.goal_callback",
    "Pull": "orthwrap.training.pull.pull_callback",
    "Schedule": "orthwrap.rules.schedules",
    "TrainingWords": "orthwrap.training.settings",
    "load_model": "orthwrap.loading.loading",
}

__all__ = [
    "DSO",
    "MC",
    "SO",
    "SRIP",
    "Band",
    "Cosine",
    "FactorSchedule",
    "FileFault",
    "Frobenius",
    "Goal",
    "Interrupted",
    "LOrth",
    "Meaning",
    "NoMatchError",
    "OffDiag",
    "OrthogonalityConstraint",
    "OrthogonalityRegularizer",
    "OrthwrapError",
    "Penalty",
    "Pull",
    "RebuildError",
    "Report",
    "Result",
    "Rule",
    "Schedule",
    "Spectral",
    "TrainingWords",
    "UsageError",
    "ValueFault",
    "__version__",
    "apply",
    "bench",
    "check",
    "compare",
    "finetune",
    "inspect",
    "load_model",
    "register_penalty",
    "regularizer",
    "strip",
    "upgrade",
]


def __getattr__(name: str) -> Any:
    where = _WHERE.get(name)
    if where is None and name[:1].isupper():  # the class of a penalty, perhaps
        from orthwrap.penalties.table import penalty_of_class

        where = None if penalty_of_class(name) is None else "orthwrap.regularizers"
    if where is None:
        raise AttributeError(f"module 'orthwrap' has no attribute {name!r}")
    return getattr(importlib.import_module(where), name)


def __dir__() -> list[str]:
    from orthwrap.penalties.table import PENALTIES

    return sorted({*__all__, *(penalty.class_name for penalty in PENALTIES.values())})


def _register_classes(module: Any) -> None:
    """Keras looks classes up in its registry and imports nothing by itself."""
    importlib.import_module("orthwrap.regularizers")
    importlib.import_module("orthwrap.constraints")
    importlib.import_module("orthwrap.upgrades.functions").register()


def _once_keras_is_there() -> None:
    import wrapt

    wrapt.register_post_import_hook(_register_classes, "keras")


class _BeforeKeras:
    """Loads wrapt when Keras is looked for, and not before: it takes longer than all of ours."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "keras":
            return None
        sys.meta_path.remove(self)
        _once_keras_is_there()
        return importlib.util.find_spec(name)  # wrapt's, whose turn in this search is over


if "keras" in sys.modules:
    _once_keras_is_there()
else:
    sys.meta_path.insert(0, _BeforeKeras())
