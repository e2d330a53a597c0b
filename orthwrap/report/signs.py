"""Words on a screen in signs that its encoding has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.segment import Segment
from rich.text import Text as RichText

from orthwrap.text import plainly


class Text(RichText):
    """Rich's, in plain signs before its width is measured where the screen lacks its own."""

    @classmethod
    def assemble(cls, *parts: Any, **how: Any) -> Text:
        made = super().assemble(*parts, **how)
        assert isinstance(made, Text)  # which rich's own types do not say
        return made

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        yield from RichText.__rich_console__(self._shown_on(console), console, options)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return RichText.__rich_measure__(self._shown_on(console), console, options)

    def _shown_on(self, console: Console) -> RichText:
        encoding = console.encoding
        if plainly(self.plain, encoding) == self.plain:
            return self
        return RichText.assemble(
            *((plainly(s.text, encoding), s.style or "") for s in self.render(console)),
            justify=self.justify,
            overflow=self.overflow,
            no_wrap=self.no_wrap,
            end=self.end,
        )
