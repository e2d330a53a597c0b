"""The wire format of protocol buffers, as far as finding values inside a message needs it.

https://protobuf.dev/programming-guides/encoding: a message is a row of fields, each a key (number
and kind) and a value; messages, texts and bytes are all a length and that many bytes. By hand,
because the library makes objects of all of a message before anything can be held against a limit.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5
# In one message. The largest graphs of objects have some hundred thousand.
_MOST_FIELDS = 2_000_000


class WireError(ValueError):
    """The bytes are no message."""


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field: a number, or what has a length."""
    place = count = 0
    while place < len(data):
        count += 1
        if count > _MOST_FIELDS:
            raise WireError("more fields than any model's")
        key, place = varint(data, place)
        kind = key & 7
        if kind == _VARINT:
            value, place = varint(data, place)
            yield key >> 3, value
            continue
        if kind == _LENGTH:
            size, place = varint(data, place)
        elif kind in (_EIGHT, _FOUR):
            size = 8 if kind == _EIGHT else 4
        else:
            raise WireError(f"kind {kind} of field")
        if place + size > len(data):
            raise WireError("a field reaches beyond the end")
        part = data[place : place + size]
        place += size
        yield key >> 3, part if kind == _LENGTH else int.from_bytes(part, "little")


def messages(data: memoryview, number: int) -> Iterator[memoryview]:
    """The values of one field that have a length: messages, texts or bytes."""
    for found, value in fields(data):
        if found == number and isinstance(value, memoryview):
            yield value


def first(data: memoryview, number: int) -> memoryview | None:
    """The first value of a field, None where the message has none."""
    return next(messages(data, number), None)


def number(data: memoryview, field: int) -> int:
    """A field that is a number; 0 where it is absent, which is how zero is written."""
    found = (v for n, v in fields(data) if n == field and isinstance(v, int))
    return next(found, 0)


def text(data: memoryview | None) -> str:
    """A text field; '' where it is absent."""
    if data is None:
        return ""
    try:
        return bytes(data).decode("utf-8")
    except UnicodeDecodeError as err:
        raise WireError("a text that is not UTF-8") from err


def varint(data: memoryview, place: int) -> tuple[int, int]:
    """A number that begins at `place`, and the place behind it."""
    value = shift = 0
    while place < len(data) and shift < 70:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if not byte & 128:
            return value, place
        shift += 7
    raise WireError("a number without an end")
