# cython: language_level=3, boundscheck=False, wraparound=False
"""HOT PATH, compiled: the records of a run, from their bytes to lines of COPY, many in one call.

What `cdc/log/runs.py` and `connectors/postgres/copy_text.py` do with rows that only pass through, without an object a
cell between: the bytes are the same (tests/unit/test_run_lines.py). A record that is different in any way - written in
another way than capture does it, or not of the run, or with a NUL in a cell - is left to them, who also know what to
say about it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcmp, memcpy

import orjson

from cdc.log.json_bytes cimport BACKSLASH, DIGITS, QUOTE, is_plain, put_number

ctypedef const unsigned char* Bytes


cdef inline Bytes _past(Bytes at, Bytes end, bytes piece) noexcept:
    """After `piece`, which must be at `at`; NULL when it is not."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(piece)
    if end - at < size or memcmp(at, PyBytes_AS_STRING(piece), size) != 0:
        return NULL
    return at + size


cdef inline int _hex(unsigned char digit) noexcept nogil:
    if 48 <= digit <= 57:
        return digit - 48
    return digit - 87 if 97 <= digit <= 102 else -1


cdef class RunLines:
    """One run's lines. Not thread-safe."""

    cdef bytes _head
    cdef bytes _before_number
    cdef bytes _before_row
    cdef bytes _after_row
    cdef bytes _end
    cdef list _before_value
    cdef int _columns
    cdef int _key_columns
    cdef int* _key_at
    cdef Py_ssize_t* _cell_at
    cdef Py_ssize_t* _cell_end
    cdef char* _line
    cdef Py_ssize_t _room

    def __cinit__(self, bytes head not None, tuple middle not None, tuple end not None, tuple names not None,
                  tuple key not None):
        """`head`, `middle` and `end` as in `Run`; `key` are the columns whose values are wanted, none when empty."""
        self._head = head
        self._before_number, self._before_row = middle
        self._after_row, self._end = end
        self._before_value = [(b"," if n else b"") + orjson.dumps(name) + b":" for n, name in enumerate(names)]
        self._columns, self._key_columns = len(names), len(key)
        self._line = NULL
        self._room = 0
        self._key_at = <int*> PyMem_Malloc(max(1, len(key)) * sizeof(int))
        self._cell_at = <Py_ssize_t*> PyMem_Malloc(max(1, len(names)) * sizeof(Py_ssize_t))
        self._cell_end = <Py_ssize_t*> PyMem_Malloc(max(1, len(names)) * sizeof(Py_ssize_t))
        if self._key_at == NULL or self._cell_at == NULL or self._cell_end == NULL:
            raise MemoryError
        for n, name in enumerate(key):
            self._key_at[n] = names.index(name)

    def __dealloc__(self):
        PyMem_Free(self._key_at)
        PyMem_Free(self._cell_at)
        PyMem_Free(self._cell_end)
        PyMem_Free(self._line)

    def read(self, values, uint64_t seq, list lines not None, list keys not None):
        """Append the lines of the first `values` that go on with this run, numbered from `seq` on, and their keys: what
        `operator.itemgetter` of the key's columns returns of a row. The size of these values."""
        cdef Py_ssize_t total = 0
        cdef Py_ssize_t size
        for value in values:
            if type(value) is not bytes:
                break
            size = self._read_line(<bytes> value, seq)
            if size < 0 or not self._add_key(keys):
                break
            lines.append(PyBytes_FromStringAndSize(self._line, size))
            total += PyBytes_GET_SIZE(<bytes> value)
            seq += 1
        return total

    cdef Py_ssize_t _read_line(self, bytes value, uint64_t seq) except? -2:
        """The row of a record as `_line`, and its length; -1 when this is no record of the run."""
        cdef Bytes at = <Bytes> PyBytes_AS_STRING(value)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(value)
        cdef Bytes end = at + size
        cdef Bytes lsn
        cdef char digits[DIGITS]
        cdef Py_ssize_t number_size = put_number(digits, seq)
        cdef char* out
        cdef int column
        cdef bint ascii = True
        if size >= self._room:
            self._line = <char*> PyMem_Realloc(self._line, size + 1)
            if self._line == NULL:
                self._room = 0
                raise MemoryError
            self._room = size + 1
        lsn = _past(at, end, self._head)
        if lsn == NULL:
            return -1
        at = lsn
        while at < end and 48 <= at[0] <= 57:
            at += 1
        if at == lsn or (lsn[0] == 48 and at != lsn + 1):
            return -1
        at = _past(at, end, self._before_number)
        if at == NULL or end - at < number_size or memcmp(at, digits, number_size) != 0:
            return -1
        at = _past(at + number_size, end, self._before_row)
        if at == NULL:
            return -1
        out = self._line
        for column in range(self._columns):
            at = _past(at, end, <bytes> PyList_GET_ITEM(self._before_value, column))
            if at == NULL or end - at < 4:
                return -1
            if column:
                out[0] = b"\t"
                out += 1
            self._cell_at[column] = out - self._line
            if at[0] == QUOTE:
                at = self._read_text(at + 1, end, &out, &ascii)
                if at == NULL:
                    return -1
                self._cell_end[column] = out - self._line
            elif memcmp(at, b"null", 4) == 0:
                memcpy(out, b"\\N", 2)
                out += 2
                at += 4
                self._cell_end[column] = -1
            else:
                return -1
        at = _past(at, end, self._after_row)
        if at == NULL or end - at < number_size or memcmp(at, digits, number_size) != 0:
            return -1
        if _past(at + number_size, end, self._end) != end:
            return -1
        if not ascii:
            try:
                PyUnicode_DecodeUTF8(self._line, out - self._line, NULL)
            except UnicodeDecodeError:
                return -1
        out[0] = b"\n"
        return out + 1 - self._line

    cdef Bytes _read_text(self, Bytes at, Bytes end, char** line, bint* ascii) noexcept:
        """Past a string of JSON, whose text goes to `line` as COPY wants it, never longer. NULL when it is none."""
        cdef char* out = line[0]
        cdef unsigned char byte
        cdef uint64_t word
        cdef int high, low
        while True:
            while end - at >= 8:
                memcpy(&word, at, 8)
                if not is_plain(word):
                    break
                memcpy(out, &word, 8)
                out += 8
                at += 8
            if at >= end:
                return NULL
            byte = at[0]
            at += 1
            if byte == QUOTE:
                line[0] = out
                return at
            if byte < 0x20:
                return NULL
            if byte != BACKSLASH:
                ascii[0] &= byte < 0x80
                out[0] = byte
                out += 1
                continue
            if at >= end:
                return NULL
            byte = at[0]
            at += 1
            if byte == BACKSLASH or byte == b"n" or byte == b"r" or byte == b"t":  # COPY's escapes are those of JSON
                out[0] = BACKSLASH
                out[1] = byte
                out += 2
                continue
            if byte == QUOTE:
                out[0] = byte
            elif byte == b"b":
                out[0] = 8
            elif byte == b"f":
                out[0] = 12
            elif byte == b"u" and end - at >= 4 and at[0] == b"0" and at[1] == b"0":
                high, low = _hex(at[2]), _hex(at[3])
                if not 0 <= high <= 1 or low < 0 or high * 16 + low in (0, 9, 10, 13):
                    return NULL
                out[0] = <char> (high * 16 + low)
                at += 4
            else:
                return NULL
            out += 1

    cdef bint _add_key(self, list keys) except -1:
        """False when a cell of the key is null."""
        cdef int n
        if self._key_columns == 0:
            return True
        for n in range(self._key_columns):
            if self._cell_end[self._key_at[n]] < 0:
                return False
        if self._key_columns == 1:
            keys.append(self._text(self._key_at[0]))
        else:
            keys.append(tuple([self._text(self._key_at[n]) for n in range(self._key_columns)]))
        return True

    cdef str _text(self, int column):
        """A cell of `_line` as what it stands for."""
        cdef char* cell = self._line + self._cell_at[column]
        cdef Py_ssize_t size = self._cell_end[column] - self._cell_at[column]
        if memchr(cell, BACKSLASH, size) == NULL:
            return PyUnicode_DecodeUTF8(cell, size, NULL)
        return _unescaped(PyUnicode_DecodeUTF8(cell, size, NULL))


cdef str _unescaped(str cell):
    parts = [part.replace("\\n", "\n").replace("\\r", "\r").replace("\\t", "\t") for part in cell.split("\\\\")]
    return "\\".join(parts)
