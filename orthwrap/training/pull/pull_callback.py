"""The Keras callback that pulls kernels towards orthogonality at a fixed rate."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from orthwrap.errors import NoMatchError, ValueFault
from orthwrap.live.compiled import step_made_anew
from orthwrap.penalties.table import with_pull
from orthwrap.rules.patterns import patterns_of
from orthwrap.rules.words import positive
from orthwrap.text import listed
from orthwrap.training.factors.schedule_callback import chosen_in
from orthwrap.training.pull.kernels import DrivenKernel, driven_kernels
from orthwrap.training.pull.pulling import Pulling, pulling_of


class Pull(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """Pulls the kernels that carry an orthwrap regularizer, in your own `fit`, on every backend.

        model = orthwrap.apply(model).model
        model.compile("adam", "mse")
        model.fit(x, y, epochs=10, callbacks=[orthwrap.Pull(0.01)])

    After each optimizer step, of each kernel's matrices: W/α ← W/α − β·W/α(G−I), a retraction as
    of Parseval networks (Cissé et al. 2017). A penalty in the loss goes through the optimizer, and
    Adam divides its gradient by its own size: it moves a weight by the learning rate at most,
    whatever the factor. A pull does not (as AdamW's decay does not, Loshchilov and Hutter 2019).
    A small residual is divided by e^(2β) at each step: by 10 in 115 steps of 0.01. β is limited to
    1/(2·max(1, b)), b the largest row sum of |G|, so that no singular value overshoots.

    `so`, `dso` and `frobenius` pull so; `offdiag` with W(G−diag G), `lorth` with a quarter of its
    own gradient. While it trains, these regularizers add nothing to the loss; when training ends
    they are penalties again, with the factor they have. Others keep theirs throughout.

    `every=k` of the regularizer pulls at one step in k, k times as strong; with gradient
    accumulation it acts at the updates alone. A constraint that a kernel has is applied after it.

    Args:
        rate: β per step, above 0.
        target: patterns (see `orthwrap.rules.patterns`) of the layers to pull. None, the default,
            takes all that have a pull, and warns of the others.
        exclude: patterns of layers to leave out.

    Raises:
        ValueFault: a rate that is none. In `fit`, before anything is changed: no kernel to pull;
            one named by `target` whose regularizer has no pull; one object shared with a layer
            that is not pulled; two Pulls for one kernel.
        UsageError: in `fit`: the optimizer averages weights (`use_ema`).
    """

    def __init__(self, rate: float = 0.01, *, target: Any = None, exclude: Any = ()) -> None:
        super().__init__()
        self.rate: float = positive.check("pull", rate)
        self._target = None if target is None else patterns_of(target)
        self._exclude = patterns_of(exclude)
        self._pulling: Pulling | None = None
        self._is_checked = False

    def start(self, model: Any) -> None:
        """Sets the pulls. In a training loop of one's own, before steps are traced."""
        self.stop()
        kernels = pullable(model, self._target, self._exclude)
        take_over(kernels, self)
        self._pulling = Pulling(model, kernels, owner=self)
        self._pulling.assign([self.rate] * len(kernels))
        self._is_checked = False

    def stop(self) -> None:
        """Takes the pulls off. May be repeated."""
        if self._pulling is not None:
            self._pulling.stop()
        self._pulling = None

    # What Keras calls

    def on_train_begin(self, logs: Any = None) -> None:
        with step_made_anew(self.model):
            self.start(self.model)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._pulling is not None and not self._is_checked:
            self._is_checked = True
            left = [k.place for k in self._pulling.without_gradient]
            if left:
                warnings.warn(
                    f"no gradient reaches {listed(left)}: Keras does not update it, nor is it "
                    "pulled",
                    UserWarning,
                    stacklevel=2,
                )

    def on_train_end(self, logs: Any = None) -> None:
        self.stop()


def pullable(model: Any, target: Any = None, exclude: Any = ()) -> list[DrivenKernel]:
    """The kernels that patterns choose, to be pulled; without a target, those that can be.

    Raises:
        NoMatchError, ValueFault: there is none; see `Pull`.
    """
    kernels = driven_kernels(model, chosen_in(model, target, exclude))
    if target is None:
        left = [k.place for k in kernels if not k.regularizer.has_pull]
        kernels = [k for k in kernels if k.regularizer.has_pull]
        if left and kernels:
            warnings.warn(
                f"{listed(left)}: the regularizer has no pull and keeps its factor",
                UserWarning,
                stacklevel=4,
            )
    if not kernels:
        raise NoMatchError(
            f"model {model.name!r} has no trained kernel to pull: attach {with_pull()} "
            "with orthwrap.apply"
        )
    return kernels


def take_over(kernels: list[DrivenKernel], owner: Any) -> None:
    """Nobody else pulls them: what a `fit` that broke off has left, ends."""
    for pulling in pulling_of(kernels):
        other = pulling.owner
        pulling.stop()
        if getattr(other, "params", None) is owner.params and owner.params is not None:
            raise ValueFault(
                "two callbacks pull the same kernel: give each its own layers with target and "
                "exclude"
            )
