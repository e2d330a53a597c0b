"""The page of all words, made from their tables: `python -m orthwrap_cli.reference`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from orthwrap.report.exports import EXPORTS
from orthwrap.rules.rule import RuleWords
from orthwrap.rules.words import Word, words_of
from orthwrap.training.settings import TrainingWords

_HEAD = """# Words

Each word is a long option of the command and a keyword in Python; those of rules are the keys of a
`[[rule]]` table too. This page is made from the code: change the word there.
"""


def page() -> str:
    """The page, in Markdown."""
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
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


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
    sys.stdout.write(page())
