"""A rule, pattern(s) → regularizer, in the words of `apply`, of the command and of a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, TypedDict, Unpack

from orthwrap.rules import words
from orthwrap.rules.constrain import Constrain
from orthwrap.rules.schedules import Schedule
from orthwrap.rules.words import AUTO, Contradiction, Said, Word, documented, spoken, words_of

FREE = "free"  # W over its own RMS singular value as it is at each step
SCALES_HELD = ("unit", "preserve")  # of a constraint
SCALES = (*SCALES_HELD, FREE)

# The scale that each kernel's own RMS singular value decides.
AUTO_SCALE = "auto"
PLACES = ("kernel", "activity")
EXISTING = ("keep", "combine", "replace")
NONE = "none"  # the regularizer that takes out what is there

_ATTACH = "What to attach"

CONSTRAINT = words.Kind(str, lambda name, value: Constrain.parse(value))


@documented()
class AttachWords(TypedDict, total=False):
    """What to attach, where, and how strong: keywords of `apply`, long options and file keys.

    Attributes:
        {words}
    """

    target: Annotated[
        Any,
        Word(
            "Which layers: all-conv, class:Conv2D, re:REGEX, a glob on the path, PATTERN@SLOT. "
            "Repeatable. Default: all-conv and all-dense to attach, else all.",
            words.patterns,
            ("all-conv", "all-dense"),
            _ATTACH,
            flags=("-t",),
            metavar="PATTERN",
            python="One pattern or several; a callable of the layer's record is one too.",
        ),
    ]
    exclude: Annotated[
        Any,
        Word(
            "Which not. Repeatable.",
            words.patterns,
            (),
            _ATTACH,
            flags=("-x",),
            metavar="PATTERN",
            python="As target.",
        ),
    ]
    regularizer: Annotated[
        Any,
        Word(
            "See `orthwrap regularizers`; also l2 or package.module:function. Default: so. With "
            "--existing replace, none takes out what is there, by default from all layers.",
            words.anything,
            "so",
            _ATTACH,
            flags=("-r",),
            metavar="NAME",
            python="An object that obeys the Keras regularizer contract is one too.",
        ),
    ]
    factor: Annotated[
        float | str | None,
        Word(
            "The coefficient; auto sets it from gradients on --data. Default: the regularizer's.",
            words.factor,
            None,
            _ATTACH,
            metavar="F|auto",
        ),
    ]
    factor_for: Annotated[
        Any,
        Word(
            "Another factor for some; the first match wins. Repeatable.",
            words.factors_by_pattern,
            (),
            _ATTACH,
            metavar="PATTERN=F",
            python="A mapping, or pairs of pattern and factor.",
        ),
    ]
    scale: Annotated[
        str | None,
        Word(
            "Drive singular values to 1 (unit), to the kernel's own RMS (preserve), or to whatever "
            "that becomes in training (free). Default: auto, preserve where that RMS lies outside "
            "0.8 to 1.25, else unit.",
            words.choice(AUTO_SCALE, *SCALES),
            AUTO_SCALE,
            _ATTACH,
        ),
    ]
    on: Annotated[
        str | None,
        Word(
            "Regularize kernels (the default), or outputs.",
            words.choice(*PLACES),
            "kernel",
            _ATTACH,
        ),
    ]
    options: Annotated[
        Mapping[str, Any] | None,
        Word(
            "An option of the regularizer, such as estimate=sketch. Repeatable.",
            words.mapping,
            {},
            _ATTACH,
            flags=("--option",),
            metavar="KEY=VALUE",
            python="A mapping of all of them.",
        ),
    ]
    existing: Annotated[
        str | None,
        Word(
            "What to do with a regularizer that is there. Default: combine. A constraint that is "
            "there stays, unless replace.",
            words.choice(*EXISTING),
            "combine",
            _ATTACH,
        ),
    ]
    constrain: Annotated[
        Any,
        Word(
            "Hold singular values after each optimizer step: orthogonal, spectral:C (none above "
            "C) or band:A,B. No regularizer is attached beside it unless one is named.",
            CONSTRAINT,
            None,
            _ATTACH,
            metavar="WHAT",
        ),
    ]
    every: Annotated[
        int | None,
        Word(
            "Hold them at one step in N only. Default: 1.",
            words.whole(1),
            1,
            _ATTACH,
            metavar="N",
        ),
    ]


def _schedule(name: str, value: Any) -> Any:
    return Schedule.parse(value) if isinstance(value, str) else value


SCHEDULE = words.Kind(str, _schedule)


class RuleWords(AttachWords, total=False):
    """The words of a `Rule`, and the keys of a `[[rule]]` table."""

    schedule: Annotated[
        Any,
        Word(
            "How the factor moves while the result is trained, such as cosine. Files of models "
            "know nothing of it.",
            SCHEDULE,
            None,
            _ATTACH,
            python="A text, an `orthwrap.Schedule` or a callable, as `FactorSchedule` takes it.",
        ),
    ]
    pull: Annotated[
        float | None,
        Word(
            "Pull these kernels so hard after each step of training, instead of a penalty in the "
            "loss: 0.01. Files of models know nothing of it.",
            words.positive,
            None,
            _ATTACH,
        ),
    ]


# What a rule that attaches none has no use for.
_OF_REGULARIZERS = ("factor", "factor_for", "on", "options", "schedule", "pull")


def _unused(given: Mapping[str, Any], unused: Sequence[str], why: str) -> Iterator[Contradiction]:
    for word in unused:
        if given.get(word) not in (None, (), {}, words_of(RuleWords)[word].default):
            said = f"{spoken(word)} is about a regularizer, and {why}: name one, or leave that out"
            yield (word, "regularizer"), said


@documented(RuleWords)
class Rule(Said):
    """Pattern(s) → regularizer.

    Attributes:
        {words}

    Raises:
        ValueFault: a value that its word does not take.
        UsageError: words that contradict each other.
    """

    TABLE = RuleWords

    def __init__(self, **given: Unpack[RuleWords]) -> None:
        super().__init__(**given)

    def settle(self, given: Mapping[str, Any]) -> None:
        if self.takes_out and not given.get("target"):
            object.__setattr__(self, "target", ("*",))
        elif given.get("constrain") is not None and given.get("regularizer") is None:
            object.__setattr__(self, "regularizer", None)

    def contradictions(self, given: Mapping[str, Any]) -> Iterator[Contradiction]:
        if self.takes_out:
            yield from _unused(given, (*_OF_REGULARIZERS, "scale"), f"{NONE} attaches none")
        elif self.regularizer is None:
            yield from _unused(given, _OF_REGULARIZERS, "constrain attaches none beside it")
        if self.takes_out and self.existing != "replace":
            why = f"regularizer {NONE} takes out what is there: say existing replace with it"
            yield ("regularizer", "existing"), why
        if self.takes_out and self.constrain is not None:
            why = f"regularizer {NONE} takes constraints out too: leave constrain out"
            yield ("regularizer", "constrain"), why
        if self.constrain is not None and self.scale == FREE:
            why = "scale free is of a regularizer: constrain takes unit or preserve"
            yield ("constrain", "scale"), why
        if self.every != 1 and self.constrain is None:
            why = "every is about constrain; that of a regularizer is an option of it, every=4"
            yield ("every", "constrain"), why

    @property
    def takes_out(self) -> bool:
        """Whether it attaches nothing, and takes out what is there."""
        return isinstance(self.regularizer, str) and self.regularizer == NONE

    @property
    def attaches(self) -> bool:
        """Whether it has a regularizer to attach."""
        return self.regularizer is not None and not self.takes_out

    @property
    def is_auto(self) -> bool:
        """Whether a factor is to be found in training."""
        return AUTO in (self.factor, *(factor for _, factor in self.factor_for))
