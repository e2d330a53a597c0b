"""A training as the verbs ask for it: on whatever model the plan makes, and into its report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orthwrap.data import Data
from orthwrap.errors import Interrupted, OrthwrapError
from orthwrap.live.live_store import LiveStore
from orthwrap.loading.saving import save_model
from orthwrap.report.make import with_notes, with_trained
from orthwrap.report.record import Report
from orthwrap.stores.outputs import check_apart
from orthwrap.training.factors.auto import Place, with_resolved
from orthwrap.training.fit import Progress, Session, begin, finetune
from orthwrap.training.goal.inputs_outputs import read_data
from orthwrap.training.loop.watch import Outcome
from orthwrap.training.others import Others
from orthwrap.training.settings import Settings
from orthwrap.training.where.devices import off_devices, on_devices
from orthwrap.training.where.processes import Processes, join, none_left_waiting


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
        with none_left_waiting(processes):
            session = begin(settings, processes)
        return cls(session, source, progress if processes.writes else None, processes)

    @contextlib.contextmanager
    def on_devices(self) -> Iterator[None]:
        """Where the model is to be made, read and trained; then the checkpoints are let go of."""
        folder = self.session.folder
        with (
            none_left_waiting(self.processes),
            contextlib.nullcontext() if folder is None else folder,
            on_devices(self.session.settings, self.processes),
        ):
            yield

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
        done = finetune(model, data, self.session, self.progress, warned=report.warnings, **driven)
        report = with_notes(report, done.warnings)
        report = with_resolved(report, done.chosen, done.resolved)
        factors = {
            r.place: r.regularizer.factor
            for r in report.layers
            if r.carries and r.regularizer is not None
        }
        training = done.training
        if others is not None and not (done.outcome.fault or done.outcome.interrupted):
            training = others.trained(training)
            report = with_notes(report, others.left_out(training))
        report = replace(report, training=replace(training, factors=factors))
        report = with_trained(report, LiveStore(model), with_figures=with_figures)
        return _with_pulls(report), done.outcome

    def save(self, model: Any, outcome: Outcome, target: Path | None) -> Path | None:
        """Saves the trained model, by one process alone.

        Returns:
            The file; None where this process writes none, or none was asked for.

        Raises:
            Interrupted, OrthwrapError: the run was cut short. What it kept is saved where it harms
                nothing, and is the error's `model`.
        """
        if not self.processes.writes:
            target = None
        if outcome.fault or outcome.interrupted:
            raise self._cut_short(model, outcome, target)
        if target is not None:
            with off_devices():
                save_model(model, target)
        return target

    def _cut_short(
        self, model: Any, outcome: Outcome, target: Path | None
    ) -> OrthwrapError | Interrupted:
        """What to say of a run that did not come to its end; what it kept is saved before."""
        folder = self.session.settings.checkpoint_dir
        if outcome.interrupted and folder is not None:
            return Interrupted(
                f"interrupted {outcome.place}: go on with the same command and --resume, which "
                f"finds its checkpoint in {folder}"
            )
        what = outcome.fault or f"interrupted {outcome.place}"
        advice = f"; {outcome.advice}" if outcome.advice else ""
        as_of = "as it was then" if outcome.kept is None else f"as of epoch {outcome.kept}"
        if outcome.fault and not outcome.kept:
            return OrthwrapError(f"{what}: nothing was saved{advice}")
        if target is None:
            message = f"{what}: the error's `model` is the model {as_of}{advice}"
        else:
            aside = target.with_name(f"{target.name}.interrupted") if target.exists() else target
            with off_devices():
                save_model(model, aside, like=target)
            message = f"{what}; {aside} holds the model {as_of}{advice}"
        error = Interrupted(message) if outcome.interrupted else OrthwrapError(message)
        error.model = model
        return error


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
