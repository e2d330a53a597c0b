"""The wire format of protocol buffers, as far as finding a text inside a message needs it.

https://protobuf.dev/programming-guides/encoding: a message is a row of fields, each a key (number
and kind) and a value; messages, texts and bytes are all a length and that many bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5


class WireError(ValueError):
    """The bytes are no message."""


def messages(data: memoryview, number: int) -> Iterator[memoryview]:
    """The values of one field that have a length: messages, texts or bytes."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == _VARINT:
            _, place = _varint(data, place)
        elif kind == _EIGHT:
            place += 8
        elif kind == _FOUR:
            place += 4
        elif kind == _LENGTH:
            size, place = _varint(data, place)
            if place + size > len(data):
                raise WireError("a field reaches beyond the end")
            if key >> 3 == number:
                yield data[place : place + size]
            place += size
        else:
            raise WireError(f"kind {kind} of field")


def first(data: memoryview, number: int) -> memoryview | None:
    """The first value of a field, None where the message has none."""
    return next(messages(data, number), None)


def text(data: memoryview | None) -> str:
    """A text field; '' where it is absent."""
    if data is None:
        return ""
    try:
        return bytes(data).decode("utf-8")
    except UnicodeDecodeError as err:
        raise WireError("a text that is not UTF-8") from err


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 70:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if not byte & 128:
            return value, place
        shift += 7
    raise WireError("a number without an end")
