"""What penalties cost on a model and device, as plain frozen data that goes to JSON and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any, ClassVar

from orthwrap.report.record import known, read_as
from orthwrap.report.shown import Shown
from orthwrap.stores.store import ModelRecord

BENCH_SCHEMA = "orthwrap.bench/1"


@dataclass(frozen=True)
class Quartiles:
    """The median over rounds, and between what half of them lie."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one penalty or constraint costs.

    Attributes:
        kernels: on so many; fewer than the model's where not all can have it.
        seconds: that it adds to a step, at least 0.
        share: of a training step.
        share_low, share_high: between what half of the rounds lie.
    """

    kernels: int
    seconds: float
    share: float
    share_low: float
    share_high: float


@dataclass(frozen=True)
class CostRow(Cost):
    """What one penalty costs, had in one way.

    Attributes:
        regularizer: its name.
        how: the way: `exact`, `auto`, `sketch`, `bfloat16`, `every=4`, `pulled`.
        options: those that make it so.
    """

    regularizer: str
    how: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class HeldRow(Cost):
    """What one constraint costs: on kernels that it has held and that a step has moved.

    Attributes:
        constrain: `orthogonal`, `spectral:1`, `band:0.9,1.1`.
    """

    constrain: str


@dataclass(frozen=True)
class BenchReport(Shown):
    """What penalties and constraints cost on a model and device; `str()` shows it.

    Attributes:
        model: which.
        backend: `tensorflow`, `jax` or `torch`.
        device: `name`, `kind` (`cpu` or `accelerator`) and `count` of what computed.
        precision: the model's dtype policy.
        versions: of Python, orthwrap and the packages that were loaded.
        batch: samples of a step.
        loss: of the step, in words.
        step: seconds of a training step without any penalty of orthwrap's.
        rounds: how often each was measured, in turn.
        whole: each penalty was measured within a step of its own, not beside it.
        kernels, parameters: how many kernels were chosen, and how many weights they hold.
        rows: the penalties, in the order of the list of penalties.
        constraints: what holds kernels after a step.
        left_out: what was not measured as the time was over, by name.
        warnings: what else is to be known.
    """

    model: ModelRecord
    backend: str
    device: Mapping[str, Any]
    precision: str
    versions: Mapping[str, str]
    batch: int
    loss: str
    step: Quartiles
    rounds: int
    whole: bool
    kernels: int
    parameters: int
    rows: tuple[CostRow, ...]
    orthwrap_version: str
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    constraints: tuple[HeldRow, ...] = ()
    command_line: str | None = field(default=None, compare=False)

    kind: ClassVar[str] = "bench"

    def __repr__(self) -> str:
        count = len(self.rows) + len(self.constraints)
        return f"<BenchReport: {count} costs beside a step of {self.step.median:.3g} s>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return f"<pre>{escape(str(self))}</pre>"

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data, schema `orthwrap.bench/1`."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        version = own.pop("orthwrap_version")
        return {
            "schema": BENCH_SCHEMA,
            "orthwrap_version": version,
            "command": "bench",
            **own,
            "model": dataclasses.asdict(self.model),
            "device": dict(self.device),
            "versions": dict(self.versions),
            "step": dataclasses.asdict(self.step),
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "constraints": [dataclasses.asdict(row) for row in self.constraints],
            "left_out": list(self.left_out),
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BenchReport:
        """The report whose `to_json` this is.

        Raises:
            ValueFault: the data is of another schema, or lacks something.
        """
        with read_as(BENCH_SCHEMA, data):
            names = {f.name for f in dataclasses.fields(cls)} - {"constraints"}
            fields = {name: data[name] for name in names}
            rows = {
                "rows": tuple(known(CostRow, row) for row in data["rows"]),
                "constraints": tuple(known(HeldRow, row) for row in data.get("constraints", ())),
            }
            words = {name: tuple(data[name]) for name in ("left_out", "warnings")}
            model, step = known(ModelRecord, data["model"]), known(Quartiles, data["step"])
            return cls(**fields | rows | words | {"model": model, "step": step})
