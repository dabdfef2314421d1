"""One file of triples as dictionary-coded columns; what is wrong in it is told with its line."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv as pacsv

from gnnaccel.data._text import HEAD, _gzip_error, read_head
from gnnaccel.data.events import DataError

# Arrow makes its functions at run time, which type checkers cannot see
pc: Any = pyarrow.compute

BLANKS = " "  # as a delimiter: any run of blanks and tabs
_ROLES = {"head": "h", "subject": "h", "relation": "r", "predicate": "r", "tail": "t", "object": "t"}
_WEIGHT = "w"
_SPELT = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar", BLANKS: "blanks"}


class TripleError(DataError):
    """Triples that cannot be used, told in one line: file, line, expected, given, what to do.

    Attributes:
        path: The file or folder, None for data in memory.
        line: 1-based number of the line in the (decompressed) file, blank lines and the header counted; None when no line is
            at fault.
    """

    def __init__(self, path: str | Path | None, problem: str, remedy: str | None = None, line: int | None = None):
        problem = problem if len(problem) <= 220 else problem[:160] + " ... " + problem[-55:]
        super().__init__(path, problem if line is None else f"line {line}: {problem}", remedy)
        self.line = line


@dataclass(frozen=True)
class Coded:
    """A column of text: row i is `values[codes[i]]`; the values are distinct."""

    values: Any
    codes: np.ndarray

    @classmethod
    def of(cls, column: Any) -> Coded:
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        array = column.unify_dictionaries().combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if isinstance(array, pa.ChunkedArray):  # no chunk at all
            return cls(pa.array([], pa.string()), np.empty(0, np.int32))
        codes = array.indices.to_numpy()
        if not pc.any(pc.match_substring_regex(array.dictionary, r"^[ \t\r\n\v\f]|[ \t\r\n\v\f]$")).as_py():
            return cls(array.dictionary, codes)
        # Two spellings that differ by surrounding blanks are one name
        again = pc.ascii_trim_whitespace(array.dictionary).dictionary_encode()
        return cls(again.dictionary, again.indices.to_numpy()[codes])


@dataclass(frozen=True)
class Columns:
    """Rows of one file of triples. `weight` is float32 [rows] or None."""

    head: Coded
    relation: Coded
    tail: Coded
    weight: np.ndarray | None

    def __len__(self) -> int:
        return len(self.head.codes)


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """`(line number from 1, text without its end)`; bytes that are not UTF-8 come as lone surrogates."""
    with open(path, "rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        with io.TextIOWrapper(gzip.open(raw) if zipped else raw, "utf-8-sig", "surrogateescape") as text:
            try:
                for n, line in enumerate(text, 1):
                    yield n, line.rstrip("\n")
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise _gzip_error(path, error) from None


def read_lines(path: Path, skip: int = 0) -> pa.Table:
    """Lines that are not blank as the one column `line`. Not UTF-8 raises TripleError."""
    try:
        table = _csv(path, ["line"], {"line": pa.string()}, "\x01", skip)
    except pa.ArrowInvalid as error:
        _check_text(path)
        raise TripleError(path, f"expected lines of text, got {str(error).splitlines()[0]}") from None
    return table.filter(pc.not_equal(pc.ascii_trim_whitespace(table.column("line")), ""))


def _csv(path: Path, names: list[str], types: dict[str, Any], delimiter: str, skip: int) -> pa.Table:
    with pa.OSFile(str(path), "rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            return pacsv.read_csv(
                pa.CompressedInputStream(raw, "gzip") if zipped else raw,
                read_options=pacsv.ReadOptions(column_names=names, skip_rows=skip, block_size=1 << 22),
                # A quote is a part of a name: names are kept literally
                parse_options=pacsv.ParseOptions(delimiter=delimiter, quote_char=False, escape_char=False),
                convert_options=pacsv.ConvertOptions(include_columns=list(types), column_types=types, null_values=[]),
            )
        except OSError as error:
            raise _gzip_error(path, error) from None


def _check_text(path: Path) -> None:
    for n, line in lines_of(path):
        _check_utf8(path, n, line)


def _check_utf8(path: Path, n: int, line: str) -> None:
    try:
        line.encode("utf-8")
    except UnicodeEncodeError as error:
        byte = ord(line[error.start]) & 0xFF
        raise TripleError(path, f"expected UTF-8, got byte 0x{byte:02x}", "convert the file to UTF-8", n) from None


def _guess_delimiter(line: str, columns: int) -> str:
    if "\t" in line:
        return "\t"
    exact = next((d for d in ",;|" if line.count(d) == columns - 1), None)
    if exact is not None or len(line.split()) == columns:
        return exact or BLANKS
    return next((d for d in ",;|" if line.count(d) >= columns), BLANKS)


class TripleFile:
    """A file of triples whose first lines have been looked at.

    Args:
        path: Text, perhaps gzipped (told by its first bytes).
        order: The columns, a permutation of "hrt". A header that names them must agree.
        delimiter: One character, " " for runs of blanks and tabs. None guesses from the first line: a tab where it has one,
            else the one of , ; | that makes the right number of columns, else blanks.
        header: Whether the first line is a header; None: if it is made of head, relation, tail (or subject, predicate, object).
        count_line: The first line is the number of triples (OpenKE).
        weight: A fourth column holds a weight for each triple.
    """

    def __init__(
        self,
        path: Path,
        order: str | None = None,
        delimiter: str | None = None,
        header: bool | None = None,
        count_line: bool = False,
        weight: bool = False,
    ):
        self.path, self.weight = path, weight
        self.count: int | None = None
        head = read_head(path)
        if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head:
            raise TripleError(path, "expected UTF-8 text, got a binary file or UTF-16", "convert the file to UTF-8")
        text = re.split(r"\r\n|\r|\n", head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace"))
        filled = [i for i, line in enumerate(text) if line.strip()]
        # Lines that Arrow skips, and the same for our own counting
        self.skip = 0
        if count_line and filled:
            at = filled.pop(0)
            if not re.fullmatch(r"\s*[0-9]{1,18}\s*", text[at]):
                expected = "expected the number of triples (OpenKE)"
                raise TripleError(path, f"{expected}, got {text[at].strip()!r}", line=at + 1)
            self.count, self.skip = int(text[at]), at + 1
        self.empty = not filled and len(head) < HEAD
        line = text[filled[0]] if filled else ""
        self.delimiter = _guess_delimiter(line, 3 + weight) if delimiter is None else delimiter
        self.names = [*(order or "hrt"), *([_WEIGHT] if weight else [])]
        cells = [x.strip().lower() for x in self.split(line)]
        self.columns = len(cells)
        roles = "".join(_ROLES.get(x, "") for x in cells)
        if header is None:
            header = sorted(roles) == ["h", "r", "t"] and not count_line
        if header and filled:
            if sorted(roles) == ["h", "r", "t"]:
                if order is not None and roles != order:
                    raise TripleError(
                        path, f"expected columns in order {order}, got a header of order {roles}", None, 1
                    )
                self.names = [_ROLES.get(x, f"_{i}") for i, x in enumerate(cells)]
                if weight and (free := [i for i, x in enumerate(self.names) if x.startswith("_")]):
                    self.names[free[0]] = _WEIGHT
            self.skip = filled[0] + 1
            self.empty = len(filled) == 1 and len(head) < HEAD
        if weight and _WEIGHT not in self.names:
            raise TripleError(path, f"expected a fourth column of weights, got {len(self.names)} columns", None, 1)

    def split(self, line: str) -> list[str]:
        if self.delimiter == BLANKS:
            return re.split(r"[ \t]+", line.strip(" \t\r\n"))
        return line.split(self.delimiter)

    def rows(self) -> Iterator[tuple[int, str]]:
        """The lines that hold a row, with their numbers."""
        for n, line in lines_of(self.path):
            if n > self.skip and line.strip():
                yield n, line

    def line_of(self, row: int) -> int:
        """Line of row `row` (from 0). Reads the file again: for messages only."""
        return next(n for i, (n, _) in enumerate(self.rows()) if i == row)

    def fail(self, row: int | None, problem: str, remedy: str | None = None) -> TripleError:
        return TripleError(self.path, problem, remedy, None if row is None else self.line_of(row))

    def read(self) -> Columns:
        """All rows. Raises TripleError for the first bad line."""
        if self.empty:
            table = None
        elif self.delimiter == BLANKS:
            table = self._by_pattern()
        else:
            kinds: dict[str, Any] = {x: pa.dictionary(pa.int32(), pa.string()) for x in "hrt"}
            if self.weight:
                kinds[_WEIGHT] = pa.float32()
            try:
                table = _csv(self.path, self.names, kinds, self.delimiter, self.skip)
            except pa.ArrowInvalid as error:
                self._diagnose()
                # No line is bad: lines of blanks, which Arrow does not take for blank
                table = self._by_pattern(str(error))
        if table is None:
            none = Coded(pa.array([], pa.string()), np.empty(0, np.int32))
            out = Columns(none, none, none, np.empty(0, np.float32) if self.weight else None)
        else:
            weight = table.column(_WEIGHT).to_numpy().astype(np.float32) if self.weight else None
            coded = {}
            for x in "hrt":  # a column's text is let go before the next is looked at
                coded[x] = Coded.of(table.column(x))
                table = table.drop_columns([x])
            out = Columns(coded["h"], coded["r"], coded["t"], weight)
        if any(pc.any(pc.equal(c.values, "")).as_py() for c in (out.head, out.relation, out.tail)):
            self._diagnose()
        if out.weight is not None and not (np.isfinite(out.weight) & (out.weight >= 0)).all():
            self._diagnose()
        if self.count is not None and self.count != len(out):
            raise TripleError(self.path, f"expected {self.count} triples as its first line says, got {len(out)}")
        return out

    def _by_pattern(self, reason: str = "a line that does not fit") -> pa.Table:
        if self.delimiter == BLANKS:
            cells = r"[ \t]+".join(rf"(?P<{x}>[^ \t]+)" for x in self.names)
            pattern = rf"^[ \t]*{cells}[ \t]*$"
        else:
            d = rf"\x{{{ord(self.delimiter):x}}}"
            pattern = "^" + d.join(rf"(?P<{x}>[^{d}]*)" for x in self.names) + "$"
        try:
            lines = read_lines(self.path, self.skip).column("line")
        except TripleError:
            self._diagnose()  # an earlier line may be bad in another way
            raise
        found = pc.extract_regex(lines, pattern)
        if found.null_count:
            self._diagnose()
            raise TripleError(self.path, reason.splitlines()[0])
        table = pa.table({x: pc.struct_field(found, x) for x in self.names})
        if self.weight:
            try:
                weight = table.column(_WEIGHT).cast(pa.float32())
            except pa.ArrowInvalid:
                self._diagnose()
                raise
            table = table.drop_columns([_WEIGHT]).append_column(_WEIGHT, weight)
        return table

    def _diagnose(self) -> None:
        """Raise for the first bad line, if there is one."""
        wanted, spelt = len(self.names), _SPELT.get(self.delimiter, repr(self.delimiter))
        for n, line in lines_of(self.path):
            _check_utf8(self.path, n, line)
            if n <= self.skip:
                continue
            cells = self.split(line)
            if len(cells) != wanted:
                if not line.strip():
                    continue
                hint = (
                    "pass weight=True (--columns hrtw) for a fourth column of weights"
                    if len(cells) == wanted + 1 == 4
                    else None
                )
                other = _guess_delimiter(line, wanted)
                if other != self.delimiter and len(cells) == 1:
                    hint = f"this line looks separated by {_SPELT[other]}: use one delimiter in all lines"
                raise TripleError(
                    self.path, f"expected {wanted} columns separated by {spelt}, got {len(cells)}", hint, n
                )
            for what, cell in zip(self.names, cells, strict=True):
                if what in "hrt" and not cell.strip():
                    label = {"h": "head", "r": "relation", "t": "tail"}[what]
                    raise TripleError(self.path, f"expected a {label}, got nothing", None, n)
                if what == _WEIGHT and not _is_weight(cell):
                    raise TripleError(self.path, f"expected a weight, finite and >= 0, got {cell.strip()!r}", None, n)


def _is_weight(cell: str) -> bool:
    try:
        return 0 <= float(cell) <= float(np.finfo(np.float32).max)
    except ValueError:
        return False
