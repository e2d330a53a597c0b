"""A training as the verbs ask for it: on whatever model the plan makes, and into its report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from orthwrap.data import Data
from orthwrap.live.store import LiveStore
from orthwrap.report.make import noted, with_trained
from orthwrap.report.record import Report
from orthwrap.stores.outputs import check_apart
from orthwrap.training.factors.auto import Place, with_resolved
from orthwrap.training.fit import Progress, Session, begin, finetune
from orthwrap.training.goal.inputs_outputs import read_data
from orthwrap.training.loop.watch import Outcome
from orthwrap.training.others import Others
from orthwrap.training.settings import Settings
from orthwrap.training.where.devices import off_devices, on_devices
from orthwrap.training.where.processes import Processes, join


@dataclass(frozen=True)
class Job:
    """What to train on, how, and who shows it.

    Attributes:
        session: the settings, and where the run goes on from.
        source: the data, in any form that `orthwrap.data.load` takes.
        progress: who shows the training, or None.
        processes: that train together.
    """

    session: Session
    source: Any
    progress: Progress | None
    processes: Processes

    @classmethod
    def of(cls, source: Any, settings: Settings, progress: Progress | None) -> Job:
        """Ready to begin; checks first where the run will write."""
        processes, settings = join(settings)
        session = begin(settings, processes)
        return cls(session, source, progress if processes.writes else None, processes)

    @contextlib.contextmanager
    def on_devices(self) -> Iterator[None]:
        """Where the model is to be made, read and trained; then the checkpoints are let go of."""
        folder = self.session.folder
        with (
            contextlib.nullcontext() if folder is None else folder,
            on_devices(self.session.settings, self.processes),
        ):
            yield

    def off_devices(self) -> AbstractContextManager[None]:
        """Where the trained model is to be saved, by one process alone."""
        return off_devices()

    def check_log(self, model: Any, target: Any) -> None:
        """FileFault where the log would replace what is read, or what is written."""
        settings = self.session.settings
        others = {
            "the model": model,
            "the output": target,
            "the data": self.source,
            "the validation data": settings.validation,
        }
        check_apart(settings.log, "log", others)

    def read(self, model: Any) -> Data:
        """The data, checked against the model."""
        return read_data(model, self.source, self.session.settings, self.session.seed)

    def train(
        self,
        model: Any,
        data: Data,
        report: Report,
        *,
        auto: Sequence[Place] = (),
        schedules: Sequence[tuple[Any, Sequence[Place]]] = (),
        pulls: Sequence[tuple[float, Sequence[Place]]] = (),
        with_figures: bool = True,
    ) -> tuple[Report, Outcome]:
        """Trains `model`, and reports it.

        Args:
            data: from `read`.
            report: of the plan, with the figures before.
            auto: the regularizers whose factors are found first.
            schedules: of the factors, where rules have their own, each with its regularizers.
            pulls: rates, where rules have their own, each with its regularizers.
            with_figures: measure the trained kernels.
        """
        driven: dict[str, Any] = {"auto": auto, "schedules": schedules, "pulls": pulls}
        others = Others.of(model, data, self.session, self.progress, driven)
        done = finetune(model, data, self.session, self.progress, **driven)
        report = with_resolved(report, done.chosen, done.resolved)
        factors = {
            r.place: r.regularizer.factor
            for r in report.layers
            if r.carries and r.regularizer is not None
        }
        training = done.training
        if others is not None and not (done.outcome.fault or done.outcome.interrupted):
            training = others.trained(training)
            report = noted(report, others.left_out(training))
        report = replace(report, training=replace(training, factors=factors))
        report = with_trained(report, LiveStore(model), with_figures=with_figures)
        return _with_pulls(report), done.outcome


def _with_pulls(report: Report) -> Report:
    """The report with the rate of each kernel that was pulled in the epoch that is kept."""
    training = report.training
    goal = None if training is None else training.goal
    epoch = None if training is None or goal is None else goal.at(training.kept_epoch)
    if goal is None or epoch is None:
        return report
    rates = dict(zip((k.place for k in goal.kernels), epoch.rates, strict=True))
    layers = []
    for record in report.layers:
        rate = rates.get(record.place, rates.get(f"{record.place}/{record.kernel}"))
        if record.regularizer is not None and rate is not None:
            record = replace(record, regularizer=replace(record.regularizer, pull=rate))
        layers.append(record)
    return replace(report, layers=tuple(layers))
