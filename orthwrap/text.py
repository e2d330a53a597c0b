"""Names from strangers' files as text for other programs: JSON, CSV, streams of any encoding."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from html import escape
from typing import Any

PLAINLY = "orthwrap.plainly"  # the codecs' word for: signs that an encoding lacks, in plain ones

_PLAIN = {
    "→": "->", "↔": "<->", "…": "...", "–": "-", "—": "-", "−": "-", "·": ".", "•": "*",
    "×": "x", "÷": "/", "⋆": "*", "⊙": "*", "‖": "||", "≤": "<=", "≥": ">=", "≠": "!=",
    "±": "+-", "½": "1/2", "²": "^2", "ᵀ": "^T", "⁺": "^+", "ᵢ": "_i", "ⱼ": "_j", "√": "sqrt",
    "∞": "inf", "█": "#", "░": "-",
    "Σ": "sum", "α": "alpha", "ε": "eps", "λ": "lambda", "ρ": "rho", "σ": "sigma", "ö": "o",
    "‘": "'", "’": "'",
    **dict.fromkeys("─━═╌╭╮╰╯┌┐└┘├┤┬┴┼╸╺", "-"),
    **dict.fromkeys("│┃║", "|"),
}  # fmt: skip
# What a spreadsheet takes for a formula where a cell begins with it; in other countries a cell
# begins after a semicolon.
_FORMULA = re.compile(r"(^\s*|[;,]\s*)(?=[=+\-@＝＋－＠])")


# What Markdown takes for markup within a line, and what makes a link of an address.
_MARKUP = re.compile(r"[\\`*\[\]<>|~&$#@:]|(?<![^\W_])_|_(?![^\W_])|(?<=www)\.", re.IGNORECASE)


_WORDS = re.compile(r"@?[^@/_.-]*[/_.-]*")


def json_text(data: Any) -> str:
    """JSON in ASCII alone, so that no name in it acts on a screen or lacks an encoding."""
    return json.dumps(data, indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def csv_cell(name: str) -> str:
    """A name as a cell of words: one printable line, never a formula."""
    return _FORMULA.sub(r"\1'", printable(name))


def markdown_text(name: str) -> str:
    """A name as words of one line in Markdown, in a table too: never markup, HTML or a link."""
    return _MARKUP.sub(r"\\\g<0>", printable(name))


def html_name(name: str) -> str:
    """A name as HTML: text alone, whose lines may end where a word does."""
    return "<wbr>".join(escape(word) for word in _WORDS.findall(printable(name)) if word)


def plainly(text: str, encoding: str) -> str:
    """The text as a stream of this encoding can show it: `->` for `→`, `sigma` for `σ`."""
    return text.encode(encoding, PLAINLY).decode(encoding)


def _in_plain_signs(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    escaped = (_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in signs)
    return "".join(escaped), error.end


codecs.register_error(PLAINLY, _in_plain_signs)


def printable(text: str) -> str:
    """Text from a stranger's file, fit for a terminal and a log: control characters are escaped."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in text
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or what kind of error it is."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def error_summary(error: BaseException) -> str:
    """What kind of error it is, and the first that its text says: `TypeError: of what`."""
    return ": ".join(filter(None, (type(error).__name__, said_first(str(error)))))


def said_first(text: str) -> str:
    """The first line of an error's text; with the next where it does but announce that."""
    lines = [plain for line in text.splitlines() if (plain := _COLOUR.sub("", line).strip())]
    announces = bool(lines) and (lines[0].endswith(":") or lines[0].startswith(_ANNOUNCING))
    return " ".join(lines[: 1 + announces])


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ANNOUNCING = "Exception encountered when calling "  # what Keras puts before what a layer raised


def counted(number: int, what: str) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def shortened(names: Sequence[str], most: int = 10) -> str:
    """`a, b, …`: names in a row, the last ones left out where they are many."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def listed(names: Sequence[str], most: int = 3) -> str:
    """`a, b, c and 2 more`."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
