"""What the gate says, for pipelines: annotations of GitHub Actions, and JUnit's XML."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from orthwrap.text import printable

if TYPE_CHECKING:  # every command has these in its help
    from orthwrap.report.gate import Excess, Gate
    from orthwrap.report.record import Report


def as_github(report: Report) -> str:
    """An annotation for each kernel that fails, and a notice that says how many were checked."""
    gate = _gate(report)
    lines = [_annotation("warning", "orthwrap check", warning) for warning in report.warnings]
    lines += [_annotation("error", e.place, f"{e.place}: {e.text}") for e in gate.failures]
    lines.append(_annotation("notice", "orthwrap check", gate.text))
    return "\n".join(lines) + "\n"


def as_junit(report: Report) -> str:
    """A test case for each kernel that was checked; those that fail say by what."""
    from xml.etree import ElementTree

    gate = _gate(report)
    failing: dict[str, list[Excess]] = {}
    for excess in gate.failures:
        failing.setdefault(excess.place, []).append(excess)
    suite = ElementTree.Element(
        "testsuite",
        name=f"orthwrap check {printable(report.model.path or 'a model in memory')}",
        tests=str(len(gate.checked)),
        failures=str(len(failing)),
        errors="0",
    )
    for place in dict.fromkeys((*failing, *gate.checked)):
        case = ElementTree.SubElement(
            suite, "testcase", classname="orthwrap.check", name=printable(place)
        )
        if place in failing:
            text = "; ".join(e.text for e in failing[place])
            ElementTree.SubElement(case, "failure", message=text).text = text
    ElementTree.indent(suite)
    body = ElementTree.tostring(suite, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


FORMATS: dict[str, Callable[[Report], str] | None] = {
    "text": None,  # as every report is shown
    "github": as_github,
    "junit": as_junit,
}
"""Each `--format` of a check."""


def _gate(report: Report) -> Gate:
    if report.gate is None:
        raise ValueError("a report of another command than check")
    return report.gate


def _annotation(kind: str, title: str, text: str) -> str:
    """A line that GitHub reads; no name in it begins another."""
    escaped = _escaped(printable(title)).replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={escaped}::{_escaped(printable(text))}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
