"""What orthwrap decides and measures, as plain frozen data that goes to JSON and back."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from orthwrap.errors import ValueFault
from orthwrap.penalties.conv_operator import OperatorFigures
from orthwrap.plan.decision import CARRYING
from orthwrap.plan.reasons import Reasons, because, joined
from orthwrap.report.beside import ControlRun, Repeats
from orthwrap.report.gate import Gate
from orthwrap.report.goal_progress import GoalProgress
from orthwrap.report.shown import Shown, found
from orthwrap.report.verdict import Verdict
from orthwrap.rules.constrain import Constrain
from orthwrap.stores.store import ModelRecord
from orthwrap.survey import Unseen
from orthwrap.text import first_line

REPORT_SCHEMA = "orthwrap.report/1"
COMPARE_SCHEMA = "orthwrap.compare/1"


def place_of(path: str, slot: str) -> str:
    """Layer and slot in a word: `conv1`, `lstm@recurrent`."""
    return path if slot == "kernel" else f"{path}@{slot}"


class _Flat:
    """A record of names and numbers alone."""

    def to_json(self) -> dict[str, Any]:
        return {k: finite(v) for k, v in dataclasses.asdict(self).items()}  # type: ignore[call-overload]


class _OnModel(Shown):
    """On a model, kernel by kernel."""

    layers: Any

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return str(found("notebook").html_of(self))

    def to_frame(self) -> Any:
        """The report as a `pandas.DataFrame`: a row for each kernel, the columns of its CSV.

        Raises:
            ValueFault: pandas is not installed.
        """
        return found("notebook").frame_of(self)


@dataclass(frozen=True)
class Deviation:
    """How far a kernel's matrices are from orthonormal (the worst of the batch where several).

    Attributes:
        residual: √(Σ‖Gᵢ − I‖_F² / (count·r)); 0 is orthonormal.
        scaled_residual: the residual of W/α.
        scale: α = ‖K‖_F / √(count·r), the RMS singular value.
        sigma_min, sigma_max: extreme singular values over the batch; None where not computed.
        condition: the worst σ_max/σ_min; None where σ_min is 0 or below resolution.
        coherence: the largest |cos| between two columns (rows where m < n); None for one column
            or a zero column.
        penalty: the regularizer's value without its factor; None without a regularizer.
        spectrum: the singular values of all its matrices, ascending. Of more than 64, so many at
            even distances, the smallest and the largest among them. None where not computed.
        operator: what it is of the convolution itself; None where it was not asked for.
    """

    residual: float
    scaled_residual: float
    scale: float
    sigma_min: float | None
    sigma_max: float | None
    condition: float | None
    coherence: float | None
    penalty: float | None = None
    spectrum: tuple[float, ...] | None = None
    operator: OperatorFigures | None = None

    @property
    def worst_condition(self) -> float | None:
        """The condition, ∞ of a singular matrix; None where it was not computed."""
        is_singular = self.condition is None and self.sigma_min is not None
        return math.inf if is_singular else self.condition

    def to_json(self) -> dict[str, Any]:
        """The operator's figures stand there only where they were asked for."""
        data = {k: finite(v) for k, v in vars(self).items() if k != "operator"}
        data["spectrum"] = None if self.spectrum is None else list(self.spectrum)
        if self.operator is None:
            return data
        operator = {k: finite(v) for k, v in vars(self.operator).items()}
        if self.operator.product_upper is None:
            del operator["product_upper"]
        return {**data, "operator": operator}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Deviation:
        """The inverse of `to_json`."""
        spectrum = data.get("spectrum")
        own = {
            "spectrum": None if spectrum is None else tuple(spectrum),
            "operator": _made(OperatorFigures, data.get("operator")),
        }
        return known(cls, {**data, **own})


@dataclass(frozen=True)
class RegularizerRecord(_Flat):
    """A regularizer as the report names it."""

    name: str
    factor: float
    scale: str | None = None
    alpha: float | None = None
    estimate: str | None = None
    every: int | None = None
    combined_with: str | None = None
    precision: str | None = None  # of products, where the kernel's own is not taken
    pull: float | None = None  # the rate, in the epoch that is kept
    options: Mapping[str, Any] = field(default_factory=dict)  # others that are not at their default

    def to_json(self) -> dict[str, Any]:
        """A precision, a rate and options stand there only where there are some."""
        data = super().to_json()
        absent = {k for k in ("precision", "pull", "options") if data[k] in (None, {})}
        return {k: v for k, v in data.items() if k not in absent}

    @property
    def words(self) -> str:
        """The scale and the options, as a table shows them: `preserve slack=0.2`."""
        scale = () if self.scale in (None, "unit") else (self.scale,)
        return " ".join((*scale, *(f"{k}={v}" for k, v in self.options.items())))


@dataclass(frozen=True)
class ConstraintRecord(_Flat):
    """A constraint of ours as the report names it.

    Attributes:
        name: orthogonal, spectral or band.
        low, high: what singular values are held within, in units of alpha.
        every: at one update in so many.
        replaced: the user's own constraint that is set aside.
    """

    name: str
    low: float
    high: float
    scale: str = "unit"
    alpha: float = 1.0
    every: int = 1
    replaced: str | None = None

    def __str__(self) -> str:
        """As the word `constrain` says it, with what is not as it is by default."""
        to = str(Constrain(self.name, self.low, self.high))
        scale = " preserve" if self.scale == "preserve" else ""
        return f"{to}{scale}" + (f" every {self.every}" if self.every > 1 else "")


@dataclass(frozen=True)
class LayerRecord:
    """One kernel (or one activity slot, or one unsupported slot) of one layer."""

    path: str
    class_name: str
    slot: str
    kernel: str | None
    shape: tuple[int, ...] | None
    layout: str | None
    matrices: tuple[int, int, int] | None  # count, rows (m), columns (n)
    decision: str
    reasons: Reasons
    trainable: bool
    rule: str | None = None
    regularizer: RegularizerRecord | None = None
    previous: str | None = None  # of ours, which was replaced
    foreign: str | None = None  # of others, which is left as it is
    before: Deviation | None = None
    after: Deviation | None = None
    strides: tuple[int, ...] = ()  # of a convolution; () where all are 1
    constraint: ConstraintRecord | None = None

    def to_json(self) -> dict[str, Any]:
        matrices = self.matrices and dict(
            zip(("count", "rows", "columns"), self.matrices, strict=True)
        )
        beside = {
            "strides": list(self.strides) or None,
            "previous": self.previous,
            "foreign": self.foreign,
            "constraint": self.constraint and self.constraint.to_json(),
        }
        return {
            "path": self.path,
            "class_name": self.class_name,
            "slot": self.slot,
            "kernel": self.kernel,
            "shape": None if self.shape is None else list(self.shape),
            "layout": self.layout,
            "matrices": matrices,
            "decision": self.decision,
            "reason": self.reason,
            "trainable": self.trainable,
            "rule": self.rule,
            "regularizer": self.regularizer and self.regularizer.to_json(),
            "before": self.before and self.before.to_json(),
            "after": self.after and self.after.to_json(),
            **{key: value for key, value in beside.items() if value is not None},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LayerRecord:
        """The inverse of `to_json`."""
        fields: Any = {
            name: data.get(name) for name in ("path", "class_name", "slot", "kernel", "layout")
        }
        fields |= {name: data.get(name) for name in ("decision", "rule", "previous", "foreign")}
        shape, matrices = data["shape"], data["matrices"]
        return cls(
            **fields,
            shape=None if shape is None else tuple(shape),
            matrices=None if matrices is None else tuple(matrices.values()),
            reasons=because(data["reason"]),
            trainable=data["trainable"],
            regularizer=_made(RegularizerRecord, data["regularizer"]),
            before=_deviation(data["before"]),
            after=_deviation(data["after"]),
            strides=tuple(data.get("strides") or ()),
            constraint=_made(ConstraintRecord, data.get("constraint")),
        )

    @property
    def reason(self) -> str:
        """Why it was decided so, as it is shown."""
        return joined(self.reasons)

    @property
    def place(self) -> str:
        """Layer and slot, as patterns name them: `conv1`, `lstm@recurrent`."""
        return place_of(self.path, self.slot)

    @property
    def kernel_place(self) -> str:
        """The kernel in a word; with its name where its slot has several."""
        several = self.kernel is not None and "/" in self.kernel
        return f"{self.place} {self.kernel}" if several else self.place

    @property
    def driven(self) -> str:
        """Which residual its scale drives: `scaled_residual` with preserve and free."""
        return _driven(self.constraint if self.regularizer is None else self.regularizer)

    @property
    def parameters(self) -> int:
        """How many weights the kernel has; 0 where there is none."""
        return 0 if self.shape is None else math.prod(self.shape)

    @property
    def carries(self) -> bool:
        """True where the kernel carries an orthwrap regularizer once the command is done."""
        return self.decision in CARRYING


@dataclass(frozen=True)
class Training:
    """What fine-tuning did.

    Attributes:
        choices: what was chosen for the user (loss, optimizer, …) and why, one line each.
        epochs: how many were done, those before a checkpoint included.
        factors: of each regularizer at the start, by where it stands.
        history: per epoch, every log that `fit` kept: `loss`, the sum of `task_loss`, `penalty`
            (of orthwrap's regularizers) and `own_penalty` (of others, where there are any); ….
        kept_epoch: the epoch whose weights the model has now, counted from 1; 0 for none.
        held_out: whether the metrics are those on validation data; else of the training data.
        seed: what all that is random followed from; None where that was left as it was.
        class_names: of a folder of images, in the order of the class numbers.
        goal: how far its kernels came, epoch by epoch; None where none was driven.
        keep: what the epoch that is kept was chosen by: `best`, `best-task` or `last`.
        verdict: what came of it; None where no epoch is kept.
        control: the same training without penalty and pull; None where it was not asked for.
        repeats: the runs of several seeds, this one first; None where it was not asked for.
    """

    epochs: int
    factors: Mapping[str, float]
    history: Mapping[str, tuple[float, ...]]
    metrics_before: Mapping[str, float]
    metrics_after: Mapping[str, float]
    choices: tuple[str, ...] = ()
    kept_epoch: int = 0
    held_out: bool = False
    seed: int | None = None
    class_names: tuple[str, ...] = ()
    goal: GoalProgress | None = None
    keep: str = "last"
    verdict: Verdict | None = None
    control: ControlRun | None = None
    repeats: Repeats | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "epochs": self.epochs,
            "kept_epoch": self.kept_epoch,
            "held_out": self.held_out,
            "seed": self.seed,
            "class_names": list(self.class_names),
            "factors": {k: finite(v) for k, v in self.factors.items()},
            "history": {k: [finite(v) for v in values] for k, values in self.history.items()},
            "metrics_before": {k: finite(v) for k, v in self.metrics_before.items()},
            "metrics_after": {k: finite(v) for k, v in self.metrics_after.items()},
            "choices": list(self.choices),
            "goal": self.goal and self.goal.to_json(),
            "keep": self.keep,
            "verdict": self.verdict and self.verdict.to_json(),
            "control": self.control and self.control.to_json(),
            "repeats": self.repeats and self.repeats.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Training:
        """The inverse of `to_json`."""
        history = {name: tuple(values) for name, values in data["history"].items()}
        lists = {name: tuple(data[name]) for name in ("class_names", "choices")}
        parts: dict[str, Callable[[Any], Any]] = {
            "goal": GoalProgress.from_json,
            "verdict": Verdict.from_json,
            "control": ControlRun.from_json,
            "repeats": Repeats.from_json,
        }
        given = {name: data.get(name) for name in parts}
        read = {name: None if v is None else parts[name](v) for name, v in given.items()}
        return known(cls, {**data, **lists, **read, "history": history})


@dataclass(frozen=True, repr=False)
class Report(_OnModel):
    """What a command did to a model, layer by layer, with its reasons and figures.

    Attributes:
        command: the verb.
        model: the model that was given: `path`, `format`, `keras_version`, `parameters`.
        layers: a record for each kernel, in the model's order: `path`, `slot`, `shape`,
            `decision`, `reason`, `regularizer`, and the figures `before` and `after` training:
            `residual`, `scaled_residual`, `scale`, `sigma_min`, `sigma_max`, `condition`,
            `coherence`, `penalty`, and `operator` where it was asked for.
        layer_count: how many layers the model has, those without kernels too.
        output: the file written, or None.
        upgrades: what was rewritten for Keras 3, with `name`, `vintage` and `layers`.
        warnings: a line each.
        training: losses, metrics and choices of a fine-tuning, or None.
        command_line: as it was given in a shell; None where Python asked.
        versions: of what it was made with, by name: Python, orthwrap, Keras, NumPy, the backend.
        gate: the limits of a check, and what exceeds them, or None.
        not_looked_into: layers of classes of others whose weights may be kernels: `path`,
            `class_name`, `weights`, `reason`, `advice`.
    """

    command: str
    model: ModelRecord
    layers: tuple[LayerRecord, ...]
    layer_count: int
    orthwrap_version: str
    output: str | None = None
    upgrades: tuple[Mapping[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()
    training: Training | None = None
    command_line: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    gate: Gate | None = None
    not_looked_into: tuple[Unseen, ...] = ()

    kind: ClassVar[str] = "report"

    def plot(self) -> Any:
        """Spectra before and after, residuals by depth and training curves, those there are.

        Returns:
            A `matplotlib.figure.Figure`, which a notebook shows and `savefig` writes.

        Raises:
            ValueFault: matplotlib is not installed (`pip install 'orthwrap[report]'`), or no
                kernel was measured.
        """
        found("export").check_installed("drawing", ("matplotlib",))
        return found("plots").drawing_of(self)

    def __repr__(self) -> str:
        s = self.summary
        said = f"{s['regularized']} of {s['kernels']} kernels carry a regularizer"
        said = said if self.gate is None else self.gate.text
        return f"<Report of {self.command}: {said}; print it for all>"

    @property
    def summary(self) -> dict[str, Any]:
        """Counts and sums over the layers, as the schema has them.

        `penalty_before` is at the factors that training began with, `penalty_after` at those that
        the model has now: what the training's own figures are at.
        """
        carrying = [r for r in self.layers if r.carries]
        held = sum(r.constraint is not None for r in self.layers)
        weighted = {
            "before": _total_penalty(carrying, "before", self._first_factors),
            "after": _total_penalty(carrying, "after", {}),
        }
        return {
            "layers": self.layer_count,
            "kernels": sum(r.kernel is not None for r in self.layers),
            "regularized": len(carrying),
            "regularized_parameters": sum(
                math.prod(r.shape) for r in carrying if r.shape is not None
            ),
            # The names of old for what is times its factor, which a kernel's `penalty` is not.
            **{f"penalty_{when}": total for when, total in weighted.items()},
            **{f"weighted_penalty_{when}": total for when, total in weighted.items()},
            **({"constrained": held} if held else {}),
            **({"not_looked_into": len(self.not_looked_into)} if self.not_looked_into else {}),
        }

    @property
    def _first_factors(self) -> Mapping[str, float]:
        return {} if self.training is None else self.training.factors

    @property
    def factors_moved(self) -> bool:
        """Whether a schedule left other factors than it found."""
        return any(
            r.regularizer.factor != self._first_factors.get(r.place, r.regularizer.factor)
            for r in self.layers
            if r.carries and r.regularizer is not None
        )

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-ready data, schema `orthwrap.report/1`; no NaN, no Infinity."""
        unseen = [dataclasses.asdict(u) for u in self.not_looked_into]
        return {
            "schema": REPORT_SCHEMA,
            "orthwrap_version": self.orthwrap_version,
            "command": self.command,
            "model": dataclasses.asdict(self.model),
            "output": self.output,
            "upgrades": [dict(u) for u in self.upgrades],
            "warnings": list(self.warnings),
            "summary": self.summary,
            "command_line": self.command_line,
            "versions": dict(self.versions),
            "training": self.training and self.training.to_json(),
            "layers": [r.to_json() for r in self.layers],
            **({} if self.gate is None else {"gate": self.gate.to_json()}),
            **({"not_looked_into": unseen} if unseen else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Report:
        """The report whose `to_json` this is; the reasons of a decision come back as one.

        Raises:
            ValueFault: the data is of another schema, or lacks something.
        """
        with read_as(REPORT_SCHEMA, data):
            training, gate = data["training"], data.get("gate")
            return cls(
                command=data["command"],
                model=known(ModelRecord, data["model"]),
                layers=tuple(LayerRecord.from_json(layer) for layer in data["layers"]),
                layer_count=data["summary"]["layers"],
                orthwrap_version=data["orthwrap_version"],
                output=data["output"],
                upgrades=tuple(data["upgrades"]),
                warnings=tuple(data["warnings"]),
                training=None if training is None else Training.from_json(training),
                command_line=data.get("command_line"),
                versions=dict(data.get("versions") or {}),
                gate=None if gate is None else Gate.from_json(gate),
                not_looked_into=tuple(
                    known(Unseen, unseen) for unseen in data.get("not_looked_into", ())
                ),
            )


def _driven(own: RegularizerRecord | ConstraintRecord | None) -> str:
    return "residual" if own is None or own.scale in (None, "unit") else "scaled_residual"


@dataclass(frozen=True)
class Comparison:
    """One kernel in two models."""

    path: str
    slot: str
    kernel: str
    class_name: str
    shape_before: tuple[int, ...] | None
    shape_after: tuple[int, ...] | None
    status: str  # "same", "changed", "reshaped", "added", "gone"
    weight_change: float | None  # ‖after − before‖_F / ‖before‖_F
    regularizer_before: str | None
    regularizer_after: str | None
    before: Deviation | None
    after: Deviation | None
    carried_before: RegularizerRecord | None = None  # of ours, as a report has it
    carried_after: RegularizerRecord | None = None
    constraint_before: str | None = None  # in words; also of others
    constraint_after: str | None = None
    held_before: ConstraintRecord | None = None  # of ours
    held_after: ConstraintRecord | None = None

    @property
    def driven(self) -> str:
        """Which residual the scale drives of what it carries, in the second model or the first."""
        carried = (self.carried_after, self.held_after, self.carried_before, self.held_before)
        return _driven(next((own for own in carried if own is not None), None))

    @property
    def residuals(self) -> tuple[float | None, float | None]:
        """That residual, as a table shows it: in both models, or once where nothing changed."""
        after = None if self.status == "same" or self.before is None else self.after
        sides = (self.before or self.after, after)
        first, second = (None if f is None else getattr(f, self.driven) for f in sides)
        return first, second

    @property
    def words(self) -> tuple[str, str]:
        """What it carries in both, as a table shows it: `so 0.001 held orthogonal`, `–`."""
        return (
            _carried(self.regularizer_before, self.constraint_before),
            _carried(self.regularizer_after, self.constraint_after),
        )

    def to_json(self) -> dict[str, Any]:
        ours = ("carried_before", "carried_after", "held_before", "held_after")
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        ours_in_json = [record and record.to_json() for record in map(data.pop, ours)]
        data["regularizer"] = dict(zip(("before", "after"), ours_in_json[:2], strict=True))
        data["constraint"] = dict(zip(("before", "after"), ours_in_json[2:], strict=True))
        for key in ("shape_before", "shape_after"):
            data[key] = None if data[key] is None else list(data[key])
        for key in ("before", "after"):
            data[key] = data[key] and data[key].to_json()
        data["weight_change"] = finite(data["weight_change"])
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Comparison:
        """The inverse of `to_json`."""
        fields = dict(data)
        for when, carried in (data.get("regularizer") or {}).items():
            fields[f"carried_{when}"] = _made(RegularizerRecord, carried)
        for when, held in (data.get("constraint") or {}).items():
            fields[f"held_{when}"] = _made(ConstraintRecord, held)
        for key in ("shape_before", "shape_after"):
            fields[key] = None if fields[key] is None else tuple(fields[key])
        for key in ("before", "after"):
            fields[key] = _deviation(fields[key])
        return known(cls, fields)


@dataclass(frozen=True, repr=False)
class CompareReport(_OnModel):
    """Two models, kernel by kernel."""

    before: ModelRecord
    after: ModelRecord
    layers: tuple[Comparison, ...]
    orthwrap_version: str
    warnings: tuple[str, ...] = ()

    kind: ClassVar[str] = "compare"

    def __repr__(self) -> str:
        s = self.summary
        return (
            f"<CompareReport: {s['changed']} of {s['kernels']} kernels changed; print it for all>"
        )

    @property
    def summary(self) -> dict[str, Any]:
        """How many kernels there are of each status, and what else differs of how many."""
        statuses = [c.status for c in self.layers]
        return {
            "kernels": len(self.layers),
            **{s: statuses.count(s) for s in ("same", "changed", "reshaped", "added", "gone")},
            "regularizers_changed": sum(
                c.regularizer_before != c.regularizer_after for c in self.layers
            ),
            "constraints_changed": sum(
                c.constraint_before != c.constraint_after for c in self.layers
            ),
        }

    @property
    def differs(self) -> bool:
        """Whether any kernel, regularizer or constraint is not the same in both."""
        s = self.summary
        changed = s["regularizers_changed"] or s["constraints_changed"]
        return bool(s["same"] < s["kernels"] or changed)

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON-ready data, schema `orthwrap.compare/1`."""
        return {
            "schema": COMPARE_SCHEMA,
            "orthwrap_version": self.orthwrap_version,
            "command": "compare",
            "before": dataclasses.asdict(self.before),
            "after": dataclasses.asdict(self.after),
            "warnings": list(self.warnings),
            "summary": self.summary,
            "layers": [c.to_json() for c in self.layers],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CompareReport:
        """The comparison whose `to_json` this is.

        Raises:
            ValueFault: the data is of another schema, or lacks something.
        """
        with read_as(COMPARE_SCHEMA, data):
            return cls(
                before=known(ModelRecord, data["before"]),
                after=known(ModelRecord, data["after"]),
                layers=tuple(Comparison.from_json(row) for row in data["layers"]),
                orthwrap_version=data["orthwrap_version"],
                warnings=tuple(data["warnings"]),
            )


T = TypeVar("T")


def _carried(regularizer: str | None, constraint: str | None) -> str:
    held = None if constraint is None else f"held {constraint}"
    return " ".join(words for words in (regularizer, held) if words is not None) or "–"


def _made(cls: type[T], data: Mapping[str, Any] | None) -> T | None:
    return None if data is None else known(cls, data)


def _deviation(data: Mapping[str, Any] | None) -> Deviation | None:
    return None if data is None else Deviation.from_json(data)


def known(cls: type[T], data: Mapping[str, Any]) -> T:
    """A record of what it knows; a later version may have added more."""
    names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return cls(**{name: value for name, value in data.items() if name in names})


@contextlib.contextmanager
def read_as(schema: str, data: Any) -> Iterator[None]:
    """ValueFault where the data is not of this schema."""
    found = data.get("schema") if isinstance(data, Mapping) else None
    if found != schema:
        raise ValueFault(f"expected JSON of schema {schema}; got {found!r}")
    try:
        yield
    except (KeyError, TypeError, AttributeError) as e:
        raise ValueFault(f"JSON of schema {schema} is not whole: {first_line(e)}") from e


def _total_penalty(
    records: list[LayerRecord], when: str, factors: Mapping[str, float]
) -> float | None:
    """Σ factor × penalty over regularized trainable kernels; None where nothing was measured.

    The factor is that of `factors` by place, else the record's own.
    """
    terms = [
        factors.get(r.place, r.regularizer.factor) * figures.penalty
        for r in records
        if r.trainable
        and r.regularizer is not None
        and (figures := getattr(r, when)) is not None
        and figures.penalty is not None
    ]
    if not terms:
        return None
    total = math.fsum(terms)
    return total if math.isfinite(total) else None


def finite(value: Any) -> Any:
    """JSON knows no NaN and no Infinity: None stands for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
