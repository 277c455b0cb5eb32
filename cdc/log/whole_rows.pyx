# cython: language_level=3, boundscheck=False, wraparound=False
"""HOT PATH, compiled: rows that arrive whole, from frames to records, many in one call.

What `cdc/protocol/pgoutput.py` and `cdc/log/envelope.py` do with an INSERT, and with an UPDATE that says nothing about
the old row, without an object a column between: the bytes are the same (tests/unit/test_whole_rows.py). Whatever
is different in any way - other columns, a value that was not sent, text that is not UTF-8, a large row - is left to
them, who also know what to say about it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

import orjson

from cdc.log.json_bytes cimport BACKSLASH, DIGITS, QUOTE, is_plain, put_number

ctypedef const unsigned char* Bytes

cdef enum:
    HEADER = 25  # of a frame of WAL data, as in cdc/protocol/frames.py
    LARGEST_FRAME = 1 << 16
    WORST_ESCAPE = 6  # bytes for one: \u001f

cdef char* _HEX = b"0123456789abcdef"
cdef bytes _ROW = b'},"before":null,"after":'


cdef inline uint32_t _uint32(Bytes at) noexcept nogil:
    return (<uint32_t> at[0] << 24) | (<uint32_t> at[1] << 16) | (<uint32_t> at[2] << 8) | at[3]


cdef inline uint64_t _uint64(Bytes at) noexcept nogil:
    return (<uint64_t> _uint32(at) << 32) | _uint32(at + 4)


cdef inline char* _put(char* out, bytes piece) noexcept:
    cdef Py_ssize_t size = PyBytes_GET_SIZE(piece)
    memcpy(out, PyBytes_AS_STRING(piece), size)
    return out + size


cdef char* _put_text(char* out, Bytes text, Py_ssize_t size) except? NULL:
    """Text as a string of JSON, as orjson writes it. Raises UnicodeDecodeError."""
    cdef Bytes end = text + size
    cdef Bytes start = text
    cdef unsigned char byte
    cdef uint64_t word
    cdef bint ascii = True
    out[0] = b'"'
    out += 1
    while text < end:
        if end - text >= 8:
            memcpy(&word, text, 8)
            if is_plain(word):
                memcpy(out, &word, 8)
                out += 8
                text += 8
                continue
        byte = text[0]
        text += 1
        if byte >= 0x20 and byte != QUOTE and byte != BACKSLASH:
            ascii &= byte < 0x80
            out[0] = byte
            out += 1
            continue
        out[0] = BACKSLASH
        if byte == QUOTE or byte == BACKSLASH:
            out[1] = byte
        elif byte == 8:
            out[1] = b"b"
        elif byte == 9:
            out[1] = b"t"
        elif byte == 10:
            out[1] = b"n"
        elif byte == 12:
            out[1] = b"f"
        elif byte == 13:
            out[1] = b"r"
        else:
            memcpy(out + 1, b"u00", 3)
            out[4] = _HEX[byte >> 4]
            out[5] = _HEX[byte & 15]
            out += 4
        out += 2
    if not ascii:
        PyUnicode_DecodeUTF8(<const char*> start, size, NULL)
    out[0] = b'"'
    return out + 1


cdef class WholeRows:
    """One table's rows. Not thread-safe."""

    cdef int _columns
    cdef int _key_columns
    cdef uint32_t* _value_at
    cdef uint32_t* _value_end
    cdef int* _key_at
    cdef char* _row
    cdef Py_ssize_t _room
    cdef Py_ssize_t _fixed
    cdef list _before_value
    cdef list _before_key
    cdef bytes _insert_head
    cdef bytes _update_head
    cdef bytes _tail
    cdef bytes _keyless

    def __cinit__(self, tuple names not None, tuple key_columns not None, bytes key_head not None,
                  bytes insert_head not None, bytes update_head not None, bytes tail not None):
        """`key_head` stands before the object of the key's columns, and is all of it where there are none."""
        self._columns, self._key_columns = len(names), len(key_columns)
        self._before_value = [(b"," if n else b"") + orjson.dumps(name) + b":" for n, name in enumerate(names)]
        self._before_key = [(b"," if n else key_head + b"{") + orjson.dumps(name) + b":"
                            for n, name in enumerate(key_columns)]
        self._keyless = key_head
        self._insert_head, self._update_head, self._tail = insert_head, update_head, tail
        self._fixed = sum(map(len, self._before_value)) + 8 * len(names)
        self._room = 0
        self._row = NULL
        self._value_at = <uint32_t*> PyMem_Malloc(max(1, len(names)) * sizeof(uint32_t))
        self._value_end = <uint32_t*> PyMem_Malloc(max(1, len(names)) * sizeof(uint32_t))
        self._key_at = <int*> PyMem_Malloc(max(1, len(key_columns)) * sizeof(int))
        if self._value_at == NULL or self._value_end == NULL or self._key_at == NULL:
            raise MemoryError
        for n, name in enumerate(key_columns):
            self._key_at[n] = names.index(name)

    def __dealloc__(self):
        PyMem_Free(self._value_at)
        PyMem_Free(self._value_end)
        PyMem_Free(self._key_at)
        PyMem_Free(self._row)

    def encode(self, list frames not None, Py_ssize_t at, bytes times not None, bytes chain not None, uint64_t seq,
               list records not None):
        """Append the records of whole rows of one relation, that of `frames[at]`, which is a row of this table, numbered
        from `seq` on. How many frames that was; 0 when already the first is none."""
        cdef Py_ssize_t count = PyList_GET_SIZE(frames)
        cdef Py_ssize_t first = at
        cdef Py_ssize_t size
        cdef Bytes frame
        cdef Bytes relation = NULL
        cdef bytes head
        while at < count:
            size = PyBytes_GET_SIZE(<bytes> PyList_GET_ITEM(frames, at))
            frame = <Bytes> PyBytes_AS_STRING(<bytes> PyList_GET_ITEM(frames, at))
            if not HEADER + 8 <= size <= LARGEST_FRAME or frame[0] != b"w":
                break
            if relation == NULL:
                relation = frame + HEADER + 1
            if memcmp(relation, frame + HEADER + 1, 4) != 0:
                break
            if frame[HEADER] == b"I":
                head = self._insert_head
            elif frame[HEADER] == b"U":
                head = self._update_head
            else:
                break
            size = self._read_row(frame, size)
            if size < 0:
                break
            records.append((self._key(), self._value(head, _uint64(frame + 1), times, chain, seq, size)))
            seq += 1
            at += 1
        return at - first

    cdef Py_ssize_t _read_row(self, Bytes frame, Py_ssize_t size) except? -2:
        """The new row as JSON in `_row`, and its length; -1 when it is not whole."""
        cdef Bytes at = frame + HEADER + 5
        cdef Bytes end = frame + size
        cdef char* out
        cdef Py_ssize_t length
        cdef int column
        if at[0] != b"N" or (<uint32_t> at[1] << 8 | at[2]) != <uint32_t> self._columns:
            return -1
        at += 3
        length = WORST_ESCAPE * size + self._fixed
        if length > self._room:
            self._row = <char*> PyMem_Realloc(self._row, length)
            if self._row == NULL:
                self._room = 0
                raise MemoryError
            self._room = length
        out = self._row
        out[0] = b"{"
        out += 1
        for column in range(self._columns):
            out = _put(out, <bytes> PyList_GET_ITEM(self._before_value, column))
            self._value_at[column] = <uint32_t> (out - self._row)
            if at >= end:
                return -1
            if at[0] == b"n":
                at += 1
                memcpy(out, b"null", 4)
                out += 4
            elif at[0] == b"t" and end - at >= 5:
                length = _uint32(at + 1)
                at += 5
                if length > end - at:
                    return -1
                try:
                    out = _put_text(out, at, length)
                except UnicodeDecodeError:
                    return -1
                at += length
            else:
                return -1
            self._value_end[column] = <uint32_t> (out - self._row)
        if at != end:
            return -1
        out[0] = b"}"
        return out + 1 - self._row

    cdef bytes _key(self):
        cdef int n
        cdef int column
        cdef Py_ssize_t size = 2
        cdef bytes key
        cdef char* out
        if not self._key_columns:
            return self._keyless
        for n in range(self._key_columns):
            column = self._key_at[n]
            size += PyBytes_GET_SIZE(<bytes> PyList_GET_ITEM(self._before_key, n))
            size += self._value_end[column] - self._value_at[column]
        key = PyBytes_FromStringAndSize(NULL, size)
        out = PyBytes_AS_STRING(key)
        for n in range(self._key_columns):
            column = self._key_at[n]
            out = _put(out, <bytes> PyList_GET_ITEM(self._before_key, n))
            size = self._value_end[column] - self._value_at[column]
            memcpy(out, self._row + self._value_at[column], size)
            out += size
        memcpy(out, b"}}", 2)
        return key

    cdef bytes _value(self, bytes head, uint64_t lsn, bytes times, bytes chain, uint64_t seq, Py_ssize_t row_size):
        cdef char lsn_digits[DIGITS]
        cdef char seq_digits[DIGITS]
        cdef Py_ssize_t lsn_size = put_number(lsn_digits, lsn)
        cdef Py_ssize_t seq_size = put_number(seq_digits, seq)
        cdef bytes value = PyBytes_FromStringAndSize(
            NULL,
            PyBytes_GET_SIZE(head) + lsn_size + PyBytes_GET_SIZE(times) + seq_size + PyBytes_GET_SIZE(_ROW) + row_size
            + PyBytes_GET_SIZE(chain) + seq_size + PyBytes_GET_SIZE(self._tail),
        )
        cdef char* out = _put(PyBytes_AS_STRING(value), head)
        memcpy(out, lsn_digits, lsn_size)
        out = _put(out + lsn_size, times)
        memcpy(out, seq_digits, seq_size)
        out = _put(out + seq_size, _ROW)
        memcpy(out, self._row, row_size)
        out = _put(out + row_size, chain)
        memcpy(out, seq_digits, seq_size)
        _put(out + seq_size, self._tail)
        return value
