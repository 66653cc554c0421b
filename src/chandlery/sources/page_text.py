"""A page of candles as text: whether all of its rows are alike, and the numbers in them, without decoding a row.

Most exchanges answer with a thousand rows of one form, such as `[1717196400000,"52529.28","52557.16",...]`. `carve`
cuts such rows out of an answer: it proves, byte by byte but in numpy, that they are valid JSON of one form, with
nothing in them but plain numbers. `Carved.numbers` then reads single columns of them, to the very doubles that float()
gives. Whatever is not of this kind (a null, a sign, an exponent, a blank, a field too many) is left to the usual way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Words = NDArray[np.uint64]

#: A row without its digits and points. Strings of a row are numbers, or flags that nothing depends on.
_VALUE = rb'(?:""|"true"|true|)'
_ARRAY = re.compile(rb"\[" + _VALUE + rb"(?:," + _VALUE + rb")*\]")
_KEYED = rb'"[A-Za-z_]+":' + _VALUE
_OBJECT = re.compile(rb"\{" + _KEYED + rb"(?:," + _KEYED + rb")*\}")
_FIELD = re.compile(rb'(?:"([A-Za-z_]+)":)?("(?:true)?"|true|)([,\]}])')
_NUMBER = b"0123456789."
#: Longer rows are none of candles.
_LONGEST_ROW = 2000
#: Room before the rows, so that every number has sixteen bytes before its end.
_PAD = b" " * 16
_DOT = 46

_EXACT = 1 << 53
_TENS = np.array([10**n for n in range(20)], dtype=np.uint64)
_TENS_F = np.array([10.0**n for n in range(20)])
#: What is kept of a word's bytes to have the numbers of its last 0 to 8 digits.
_DIGITS = np.array([(0x0F0F0F0F0F0F0F0F >> 8 * (8 - n)) << 8 * (8 - n) for n in range(9)], dtype=np.uint64)


class Field(NamedTuple):
    """One field of a row: its key (its place in an array) and, if it is a number, the separator before it.

    `before` counts the bytes of the row's form, which has neither digits nor points.
    """

    key: int | str
    before: int | None
    quoted: bool


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """The form of a row: what is left of it without digits and points. There is one object of each in use."""

    text: bytes
    fields: tuple[Field, ...]
    is_array: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Pattern:
    """A form with the points of one row. As of a form, there is one object of each."""

    text: bytes
    digits: bytes  # 1 where digits follow the byte, 0 where the next byte follows
    bare: tuple[int, ...]  # the bytes before the numbers without quotes


class Carved:
    """The rows of an answer, proven to be of one form."""

    def __init__(self, source: bytes, text: bytes, form: Form, rows: int, spots: _Spots) -> None:
        self.source = source  # the rows as they came, if flags are told apart in them
        self.text = text  # padded
        self.form = form
        self.rows = rows
        self._spots = spots

    def __len__(self) -> int:
        return self.rows

    def json(self) -> bytes:
        """The rows as a JSON array."""
        return b"[%b]" % (self.source or self.text[len(_PAD) : -1])

    def first(self) -> bytes:
        """The first row."""
        close = b"]" if self.form.is_array else b"}"
        return self.text[len(_PAD) : self.text.index(close) + 1]

    def table(self, whole: int, fields: Sequence[int]) -> tuple[Ints, int, NDArray[np.float64]] | None:
        """What `whole` gives of one field, and `numbers` of the others; None where the first has none."""
        spots = self._spots.of((whole, *fields))
        counts = (
            spots[1:] - spots[:-1] - 1
        )  # of digits above the point, and below it; -1 below where there is none
        digits = int(counts[0, 0, 0])
        if digits > 16 or not (counts[0, 0] == digits).all() or not (counts[1, 0] == -1).all():
            return None
        most_above, most_below = int(counts[0, 1:].max(initial=0)), int(counts[1, 1:].max(initial=0))
        if most_above > 8 or most_below > min(8, 15 - most_above):
            found = self.whole(whole)
            return None if found is None else (*found, self.numbers(fields))
        # Every number is one word, or two: then the first field's upper digits lie where others have those below the point.
        ends = spots[1:]
        ends[1, 0] = ends[0, 0] - 8
        counts[0, 0], counts[1, 0] = min(digits, 8), max(digits - 8, 0)
        least_below = int(counts[1, 1:].min(initial=0))
        if least_below < 0:
            np.maximum(counts, 0, out=counts)
        parts = _eight(self._words(), ends, counts)
        low, mantissa, high, below = parts[0, 0], parts[0, 1:], parts[1, 0], parts[1, 1:]
        if digits > 8:
            low += high * _TENS[8]
        places = counts[1, 1:] if least_below < most_below else most_below
        if most_below:
            mantissa *= _TENS[places]
            mantissa += below
        values = mantissa.astype(np.float64)
        values /= _TENS_F[places]  # both exact, so it rounds as float() does
        return low.view(np.int64), digits, values

    def whole(self, field: int) -> tuple[Ints, int] | None:
        """A column of whole numbers that all have the same number of digits, at most 16, and that number."""
        starts, points, ends = self._spots.of((field,))
        digits = ends - starts - 1
        count = int(digits[0, 0])
        if count > 16 or not (digits == count).all() or not (points == ends).all():
            return None
        words = self._words()
        found = _eight(words, ends[0], min(count, 8))
        if count > 8:
            found += _eight(words, ends[0] - 8, count - 8) * _TENS[8]
        return found.view(np.int64), count

    def numbers(self, fields: Sequence[int]) -> NDArray[np.float64]:
        """Columns of decimals, as doubles: an array of (columns, rows)."""
        starts, points, ends = self._spots.of(tuple(fields))
        words = self._words()
        above = points - starts - 1
        below = np.maximum(ends - points - 1, 0)
        most_above, most_below = int(above.max()), int(below.max())
        if most_above <= 16 and most_below <= 16:
            places = most_below if int(below.min()) == most_below else below
            mantissa = _last_digits(words, points, above, most_above)
            if most_below:
                mantissa *= _TENS[places]
                mantissa += _last_digits(words, ends, below, most_below)
            # Both are exact up to here, so the one division rounds as float() does.
            found: NDArray[np.float64] = mantissa.astype(np.float64)
            found /= _TENS_F[places]
            if most_above + most_below <= 15:
                return found
            inexact = (above + below > 19) | (mantissa > _EXACT)
        else:
            found = np.empty(above.shape)
            inexact = np.ones(above.shape, dtype=np.bool_)
        where = np.nonzero(inexact)
        text, edges = self.text, zip((starts[where] + 1).tolist(), ends[where].tolist(), strict=True)
        found[where] = [float(text[start:end]) for start, end in edges]
        return found

    def _words(self) -> Words:
        """At each index the eight bytes from there on."""
        return np.ndarray((len(self.text) - 7,), "<u8", self.text, 0, (1,))


class _Spots:
    """Where the numbers of all rows lie: the bytes before them, their points, the bytes after them."""

    def __init__(self, places: Ints, form: Form, pattern: _Pattern | None, separators: Ints | None) -> None:
        self._places = places  # of everything that is no digit, in order
        self._form = form
        self._pattern = pattern  # None: points are not at the same places in all rows
        self._separators = separators  # indices into `places` of what is no point

    def of(self, fields: tuple[int, ...]) -> Ints:
        """(3, columns, rows): the index before, of the point (or after) and after these fields' numbers."""
        if self._pattern is not None:
            table = self._places.reshape(-1, len(self._pattern.text) + 1)
            return table.T[_columns(self._form, self._pattern, fields)]
        assert self._separators is not None
        before = [self._form.fields[field].before for field in fields]
        indices = [index for index in before if index is not None]
        table = self._separators.reshape(-1, len(self._form.text) + 1).T
        first, last = table[indices], table[[index + 1 for index in indices]]
        return self._places[np.array((first, first + 1, last))]


def carve(body: bytes) -> tuple[bytes, Carved, bytes] | None:
    """Cut the rows out of an answer: what stands before them, the rows, what stands after them; None if it cannot be.

    What stands before ends with the bracket of the rows' array, what stands after begins with its end.
    """
    array, keyed = body.find(b"[[", 0, _LONGEST_ROW), body.find(b"[{", 0, _LONGEST_ROW)
    begin = min(found for found in (array, keyed) if found >= 0) if max(array, keyed) >= 0 else -1
    if begin < 0:
        return None
    begin += 1
    close = b"]" if begin - 1 == array else b"}"
    end = body.rfind(close + b"]") + 1
    close_first = body.find(close, begin, begin + _LONGEST_ROW) + 1
    if not begin < close_first <= end:
        return None
    dotted = body[begin:close_first].translate(None, b"0123456789")
    text = b"".join((_PAD, memoryview(body)[begin:end], b","))
    source = b""
    if b"e" in dotted and b"false" in text:  # a flag that nothing depends on
        source = body[begin:end]
        text = text.replace(b"false", b"true")
        dotted = dotted.replace(b"false", b"true")
    form = form_of(dotted.replace(b".", b""))
    if form is None:
        return None
    found = _checked(text, form, dotted)
    return None if found is None else (body[:begin], Carved(source, text, form, *found), body[end:])


@lru_cache(maxsize=64)
def form_of(text: bytes) -> Form | None:
    """The form that a row without digits and points shows; None if it is not one of numbers and flags."""
    is_array = _ARRAY.fullmatch(text) is not None
    if not is_array and _OBJECT.fullmatch(text) is None:
        return None
    fields: list[Field] = []
    for number, match in enumerate(_FIELD.finditer(text, 1)):
        key: int | str = number if is_array else match[1].decode()
        value = match[2]
        if value == b'""':
            fields.append(Field(key, match.start(2), quoted=True))
        elif value == b"":
            fields.append(Field(key, match.start(2) - 1, quoted=False))
        else:
            fields.append(Field(key, None, quoted=value[:1] == b'"'))
    if len({field.key for field in fields}) < len(fields):
        return None
    return Form(text, tuple(fields), is_array)


@lru_cache(maxsize=256)
def _pattern_of(form: Form, dotted: bytes) -> _Pattern | None:
    """The form with the points of one row; None if a number has two, or one at its edge is possible."""
    places = [index for index, byte in enumerate(dotted) if byte != _DOT]  # of the form's bytes
    digits = bytearray(len(dotted) + 1)
    bare: list[int] = []
    for field in form.fields:
        if field.before is None:
            continue
        first, last = places[field.before], places[field.before + 1]
        if last - first > 2:
            return None
        digits[first:last] = b"\1" * (last - first)
        if not field.quoted:
            bare.append(first)
    if dotted.count(b".") != sum(digits) - sum(field.before is not None for field in form.fields):
        return None  # a point outside of a number
    return _Pattern(dotted, bytes(digits), tuple(bare))


@lru_cache(maxsize=256)
def _columns(form: Form, pattern: _Pattern, fields: tuple[int, ...]) -> NDArray[np.intp]:
    """(3, fields): the bytes of the pattern before each field, of its point (or after it) and after it."""
    places = [index for index, byte in enumerate(pattern.text) if byte != _DOT]
    before = [form.fields[field].before for field in fields]
    starts = [places[index] for index in before if index is not None]
    ends = [places[index + 1] for index in before if index is not None]
    return np.array((starts, [start + 1 for start in starts], ends))


def _checked(text: bytes, form: Form, dotted: bytes) -> tuple[int, _Spots] | None:
    """The number of rows and the places of their numbers, if all rows are of this form and nothing else is there."""
    data = np.frombuffer(text, np.uint8)
    # The pad is no digit either. The comma at the end makes all rows alike.
    places = ((data - np.uint8(48)) > 9).nonzero()[0][len(_PAD) :]
    there = data.take(places)
    gapped = (places[1:] - places[:-1]) > 1
    pattern = _pattern_of(form, dotted)
    bare: Ints
    if pattern is not None and (rows := _repeated(there, dotted + b",")):
        # All rows have their points where the first one has them.
        if gapped.tobytes() != (pattern.digits * rows)[:-1]:
            return None
        table = places.reshape(rows, -1).T
        bare, after = table[list(pattern.bare)], table[[index + 1 for index in pattern.bare]]
        spots = _Spots(places, form, pattern, None)
    else:
        points = (there == _DOT).nonzero()[0]
        if not len(points) or not (gapped[points - 1] & gapped[points]).all():
            return None
        separators = (there != _DOT).nonzero()[0]
        rows = _repeated(there[separators], form.text + b",")
        if not rows or not _between(places, separators, form, rows):
            return None
        before = [f.before for f in form.fields if f.before is not None and not f.quoted]
        indices = separators.reshape(rows, -1).T[before]
        bare, after = places[indices], places[indices + 1]
        spots = _Spots(places, form, None, separators)
    # JSON knows no number with a zero before other digits.
    if bare.size and bool(((data[bare + 1] == 48) & (after - bare > 2)).any()):
        return None
    return rows, spots


def _repeated(there: NDArray[np.uint8], row: bytes) -> int:
    """How often `row` is repeated in `there`, 0 if there is anything else."""
    rows, rest = divmod(len(there), len(row))
    return 0 if rest or there.tobytes() != row * rows else rows


def _between(places: Ints, separators: Ints, form: Form, rows: int) -> bool:
    """Whether numbers, of one point at most, stand where the form has them and nowhere else."""
    plain = _pattern_of(form, form.text)
    assert plain is not None
    numbers = np.frombuffer((plain.digits * rows)[:-1], np.bool_)
    spots, points = places[separators], separators[1:] - separators[:-1] - 1
    return bool((((spots[1:] - spots[:-1]) > 1) == numbers).all() and (points <= numbers).all())


_M2, _M3 = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)
_T1, _T2, _T3 = np.uint64(10 * 256 + 1), np.uint64(100 * 65536 + 1), np.uint64(10_000 * (1 << 32) + 1)
_S1, _S2, _S3 = np.uint64(8), np.uint64(16), np.uint64(32)


def _last_digits(words: Words, ends: Ints, count: Ints, most: int) -> Words:
    """The numbers of `count` digits that end before `ends`; `most` is the greatest count, at most 16."""
    found = _eight(words, ends, np.minimum(count, 8) if most > 8 else count)
    if most > 8:
        long = np.nonzero(count > 8)
        found[long] += _eight(words, ends[long] - 8, count[long] - 8) * _TENS[8]
    return found


def _eight(words: Words, ends: Ints, count: Ints | int) -> Words:
    """The same for at most eight digits: they are read as one word, in which neighbours are added up three times."""
    found: Words = words[ends - 8]
    found &= _DIGITS[count]
    found *= _T1
    found >>= _S1
    found &= _M2
    found *= _T2
    found >>= _S2
    found &= _M3
    found *= _T3
    found >>= _S3
    return found
