"""Pages made from the code: `python -m orthwrap_cli.reference words`, or `commands`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from orthwrap.report.exports import EXPORTS
from orthwrap.rules.rule import RuleWords
from orthwrap.rules.words import Word, words_of
from orthwrap.training.settings import TrainingWords
from orthwrap_cli.commands import app
from orthwrap_cli.examples import EXAMPLES
from orthwrap_cli.word_options import with_penalties

_HEAD = """# Words

Each word is a long option of the command and a keyword in Python; those of rules are the keys of a
`[[rule]]` table too. This page is made from the code: change the word there.
"""


_COMMANDS = """# Commands

What `orthwrap COMMAND --help` says. Options of training and of rules are explained in
[words](words.md). This page is made from the commands.

| exit code | |
|---|---|
| 0 | done |
| 1 | the model, data or a value is at fault; a line for each, on standard error, says what to do |
| 2 | the command was written wrongly |
| 3 | a gate says no: `check`, `compare --exit-code`, or `--strict` |
| 130 | interrupted |
"""


def commands() -> str:
    """The page of commands, in Markdown."""
    group: Any = get_command(app)
    return "\n".join([_COMMANDS, *(part for c in group.commands.values() for part in _command(c))])


def _command(command: Any) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = " ".join([f"orthwrap {command.name}", *(a.metavar for a in arguments), "[OPTIONS]"])
    yield from (f"## `{command.name}`", "", command.help.strip(), "", "```text", usage, "```", "")
    yield from ("| | |", "|---|---|")
    for argument in arguments:
        yield _row(argument.metavar, argument.help)
    panels: dict[str, list[Any]] = {"": []}  # those without one come first
    for option in options:
        panels.setdefault(option.rich_help_panel or "", []).append(option)
    for panel, members in panels.items():
        if panel:
            yield f"| **{panel}** | |"
        for option in members:
            flags = ", ".join([*option.opts, *option.secondary_opts])
            yield _row(f"{flags} {option.metavar or ''}".strip(), with_penalties(option.help))
    yield from ("", "```console", *(f"$ {line}" for line in EXAMPLES[command.name]), "```", "")


def _row(name: str, text: str) -> str:
    return f"| `{_cell(name)}` | {_cell(text)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", chr(92) + "|")


def page() -> str:
    """The page of words, in Markdown."""
    parts = [
        *("## Rules: what to attach", "", *_table(RuleWords)),
        *("", "## Training, with `--data`", "", *_table(TrainingWords)),
        *("", "## The report, for other programs and for people", "", *_exports()),
    ]
    return "\n".join([_HEAD, *parts, ""])


def _table(table: type) -> Iterator[str]:
    yield from ("| Python, rules file | command | what it says |", "|---|---|---|")
    for name, word in words_of(table).items():
        cells = (f"`{name}`", _option(name, word), word.doc)
        yield f"| {' | '.join(map(_cell, cells))} |"


def _exports() -> Iterator[str]:
    yield from ("| command | `report.save` | what it does |", "|---|---|---|")
    for export in EXPORTS.values():
        suffixes = ", ".join(f"`{suffix}`" for suffix in export.suffixes)
        yield f"| `--{export.word}` | {suffixes} | {export.help}. |"


def _option(name: str, word: Word) -> str:
    if word.kind.option is None:
        return "–"
    return ", ".join(f"`{flag}`" for flag in word.options(name))


if __name__ == "__main__":
    sys.stdout.write({"words": page, "commands": commands}[sys.argv[1]]())
