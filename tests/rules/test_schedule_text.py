"""How a schedule is written, and the multipliers that it gives. No Keras here."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthwrap.errors import ValueFault
from orthwrap.rules.schedules import Schedule


@pytest.mark.parametrize(
    ("text", "total", "expected"),
    [
        ("constant", None, {0: 1, 7: 1}),
        ("linear", 10, {0: 1, 1: 0.9, 5: 0.5, 9: 0.1, 10: 0, 11: 0}),
        ("linear:0.5", 10, {0: 1, 4: 0.8, 10: 0.5}),
        ("linear:3:4", None, {0: 1, 1: 1.5, 2: 2, 4: 3, 99: 3}),
        ("cosine", 12, {0: 1, 2: 0.9330127, 3: 0.8535534, 6: 0.5, 9: 0.1464466, 12: 0}),
        ("cosine:0.1:6", 99, {0: 1, 2: 0.775, 3: 0.55, 4: 0.325, 6: 0.1, 7: 0.1}),
        (
            "0:1, 20:1e-2, 50:1e-3, 120:0",
            None,
            {0: 1, 19: 1, 20: 0.01, 49: 0.01, 50: 0.001, 119: 0.001, 120: 0, 500: 0},
        ),
        ("0:0.5", None, {0: 0.5, 3: 0.5}),
        ("warmup:4", None, {0: 0, 1: 0.25, 3: 0.75, 4: 1, 9: 1}),
        ("warmup:3, cosine:0.1", 9, {0: 0, 1: 1 / 3, 3: 1, 5: 0.775, 6: 0.55, 9: 0.1}),
        ("warmup:2,linear:0:4", None, {0: 0, 1: 0.5, 2: 1, 3: 0.75, 6: 0, 7: 0}),
        # AT is a place in the training; the ramp leads to what stands where it ends.
        ("warmup:4, 0:1, 2:0.5, 6:0.1", None, {0: 0, 2: 0.25, 4: 0.5, 5: 0.5, 6: 0.1}),
        ("  warmup : 2 , constant ", None, {0: 0, 1: 0.5, 2: 1}),
        ("warmup:5, linear", 5, {4: 0.8, 5: 1}),
    ],
)
def test_multipliers_are_those_of_the_table(text: str, total: Any, expected: Any) -> None:
    schedule = Schedule.parse(text)
    found = {position: schedule.at(position, total) for position in expected}
    assert found == pytest.approx(expected, abs=1e-7)
    assert Schedule.parse(str(schedule)) == schedule


numbers = st.floats(0, 1e6)
lengths = st.floats(1e-3, 1e6)
ramps = st.builds(
    Schedule,
    kind=st.sampled_from(["linear", "cosine"]),
    to=numbers,
    over=st.none() | lengths,
    warmup=st.just(0.0) | lengths,
)
held = st.builds(
    lambda later, first, warmup: Schedule(
        "steps", knots=((0.0, first), *sorted(later.items())), warmup=warmup
    ),
    st.dictionaries(lengths, numbers, max_size=5),
    numbers,
    st.just(0.0) | lengths,
)


@given(ramps | held | st.builds(Schedule, warmup=st.just(0.0) | lengths))
def test_text_gives_the_schedule_back(schedule: Schedule) -> None:
    assert Schedule.parse(str(schedule)) == schedule


@given(ramps | held, lengths, st.floats(0, 1))
def test_multipliers_stay_between_the_ends(schedule: Schedule, total: float, where: float) -> None:
    ends = [value for _, value in schedule.knots] or [1.0, schedule.to]
    value = schedule.at(where * total, total)
    assert min(0.0 if schedule.warmup else math.inf, *ends) * (1 - 1e-9) <= value
    assert value <= max(ends) * (1 + 1e-9)


@given(numbers, lengths, numbers)
def test_linear_is_numpys_interpolation(to: float, over: float, position: float) -> None:
    expected = np.interp(position, [0, over], [1, to])
    assert Schedule("linear", to, over).at(position) == pytest.approx(expected)


@given(held, numbers)
def test_steps_hold_the_last_knot(schedule: Schedule, position: float) -> None:
    places, values = np.array(schedule.knots).T
    index = np.searchsorted(places, max(position, schedule.warmup), side="right") - 1
    ramp = min(1.0, position / schedule.warmup) if schedule.warmup else 1.0
    assert schedule.at(position) == pytest.approx(values[index] * ramp)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a schedule is a text; got ''"),
        (None, "a schedule is a text; got None"),
        ("liner", "'liner' is none of constant, linear, cosine, warmup:N and AT:MULTIPLIER"),
        ("linear:x", "'x' is not a number"),
        ("linear:1:2:3", "'linear:1:2:3' has too many ':'"),
        ("constant:1", "'constant:1' has too many ':'"),
        ("linear:-1", "goes to -1.0; expected a number, at least 0"),
        ("cosine:nan", "goes to nan"),
        ("linear:1:0", "goes over 0.0; expected a number, above 0"),
        ("linear, 5:1", "nothing comes after 'linear'"),
        ("5:1", "starts at 5, not at 0"),
        ("0:1, 20", "'20' is none of"),
        ("0:1, 0:2", "after 0 goes on at 0.0; expected a number, a later place"),
        ("0:1, 5:0.1, 3:0", "after 5 goes on at 3.0"),
        ("0:1, 5:-1", "at 5 has the multiplier -1.0; expected a number, 0 or more"),
        ("0:inf", "at 0 has the multiplier inf"),
        ("warmup", "warmup takes one length"),
        ("warmup:0", "has a warm-up of 0.0; expected a number, above 0"),
        ("warmup:3,", "'' is none of"),
        ("linear, warmup:3", "nothing comes after 'linear'"),
    ],
)
def test_what_is_no_schedule_is_said_with_an_example(text: Any, words: str) -> None:
    with pytest.raises(ValueFault) as fault:
        Schedule.parse(text)
    message = str(fault.value)
    assert words in message
    assert "'warmup:3, linear'" in message
    assert "\n" not in message


def test_a_schedule_over_the_whole_training_asks_how_long_that_is() -> None:
    with pytest.raises(ValueFault, match=r"say over how long, as in 'cosine:0\.1:1000'"):
        Schedule.parse("cosine:0.1").at(3)
    with pytest.raises(ValueFault, match="kind 'quadratic' is not known"):
        Schedule("quadratic")


def test_parsing_imports_no_keras() -> None:
    script = """
import sys, orthwrap
print(orthwrap.Schedule.parse("warmup:3, linear:0:9").at(1), "keras" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["0.3333333333333333", "False"], done.stderr


@pytest.mark.parametrize("text", ["constant", "cosine:0:3", "warmup:2, linear:0:5", "0:1, 2:0"])
def test_positions_count_from_0(text: str) -> None:
    for position in (-1, -0.5, math.nan):
        with pytest.raises(ValueFault, match="positions count from 0 up"):
            Schedule.parse(text).at(position)
