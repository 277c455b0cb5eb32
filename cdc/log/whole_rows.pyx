# cython: language_level=3, boundscheck=False, wraparound=False
"""HOT PATH, compiled: rows that arrive whole, and short transactions of nothing else, from frames to records, many in
one call.

What `cdc/protocol/pgoutput.py`, `cdc/events/assembler.py` and `cdc/log/envelope.py` do with an INSERT, and with an UPDATE
that says nothing about the old row, without an object a column between: the bytes are the same
(tests/unit/test_whole_rows.py). Whatever is different in any way - other columns, a value that was not sent, text that
is not UTF-8, a large row - is left to them, who also know what to say about it.
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
    BEGIN_SIZE = HEADER + 21
    COMMIT_SIZE = HEADER + 26
    MOST_ROWS = 32  # of a transaction that is taken whole; rows of larger ones are taken together anyway
    LARGEST_FRAME = 1 << 16
    WORST_ESCAPE = 6  # bytes for one: \u001f

cdef char* _HEX = b"0123456789abcdef"
cdef bytes _ROW = b'},"before":null,"after":'
cdef uint64_t _PG_EPOCH_US = 946684800000000  # as in cdc/protocol/frames.py
cdef uint64_t _LATEST_US = 1 << 62  # a commit time beyond is negative, or nonsense


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
        while at < count:
            size = PyBytes_GET_SIZE(<bytes> PyList_GET_ITEM(frames, at))
            frame = <Bytes> PyBytes_AS_STRING(<bytes> PyList_GET_ITEM(frames, at))
            if size >= HEADER + 8:
                if relation == NULL:
                    relation = frame + HEADER + 1
                if memcmp(relation, frame + HEADER + 1, 4) != 0:
                    break
            if not self._take(frame, size, times, chain, seq, records):
                break
            seq += 1
            at += 1
        return at - first

    cdef bint _take(self, Bytes frame, Py_ssize_t size, bytes times, bytes chain, uint64_t seq, list records) except -1:
        """Whether the frame is a row of this table that arrived whole; its record is appended then."""
        cdef bytes head
        if not HEADER + 8 <= size <= LARGEST_FRAME or frame[0] != b"w":
            return False
        if frame[HEADER] == b"I":
            head = self._insert_head
        elif frame[HEADER] == b"U":
            head = self._update_head
        else:
            return False
        size = self._read_row(frame, size)
        if size < 0:
            return False
        records.append((self._key(), self._value(head, _uint64(frame + 1), times, chain, seq, size)))
        return True

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


cdef class WholeTransactions:
    """Short transactions of one session of capture whose rows all arrive whole. Not thread-safe."""

    cdef dict _tables
    cdef bytes _epoch
    cdef bytes _ending
    cdef readonly uint64_t commit_lsn, end_lsn
    cdef readonly Py_ssize_t transactions

    def __cinit__(self, epoch, bytes ending not None):
        """`ending` is what stands after the end LSN in the final record of each transaction."""
        self._tables = {}
        self._epoch = b',"cdc":{"epoch":%d,"commit_lsn":' % epoch
        self._ending = ending

    def add(self, oid, WholeRows rows not None):
        """A relation that the log describes, as it is from here on."""
        self._tables[oid] = rows

    def forget(self, oid):
        self._tables.pop(oid, None)

    def forget_all(self):
        self._tables.clear()

    def encode(self, list frames not None, Py_ssize_t at, uint64_t commit_lsn, uint64_t end_lsn, uint64_t now_us,
               list records not None):
        """Append the records of whole transactions from `frames[at]` on, which begins one. How many frames that was.

        They follow the transaction of `commit_lsn`, which ends at `end_lsn`; after the call these are the newest's, and
        there are so many `transactions`."""
        cdef Py_ssize_t taken
        cdef Py_ssize_t first = at
        self.commit_lsn, self.end_lsn, self.transactions = commit_lsn, end_lsn, 0
        while True:
            taken = self._take(frames, at, now_us, records)
            if not taken:
                return at - first
            at += taken
            self.transactions += 1

    cdef Py_ssize_t _take(self, list frames, Py_ssize_t at, uint64_t now_us, list records) except -1:
        """How many frames the transaction has that begins at `frames[at]`; 0 when it cannot be taken."""
        cdef Py_ssize_t count = PyList_GET_SIZE(frames)
        cdef Py_ssize_t first = at
        cdef Py_ssize_t before = len(records)
        cdef Py_ssize_t size = 0
        cdef Bytes frame
        cdef uint64_t commit_lsn, time_us, end_lsn
        cdef uint32_t oid = 0
        cdef uint64_t seq = 1
        cdef WholeRows rows = None
        cdef bytes times
        cdef bytes chain
        if count - at < 3:
            return 0
        frame = _frame(frames, at, &size)
        if size != BEGIN_SIZE or frame[0] != b"w" or frame[HEADER] != b"B":
            return 0
        commit_lsn = _uint64(frame + HEADER + 1)
        time_us = _uint64(frame + HEADER + 9)
        if commit_lsn <= self.commit_lsn or time_us > _LATEST_US:
            return 0
        times, chain = self._constants(commit_lsn, time_us + _PG_EPOCH_US, _uint32(frame + HEADER + 17), now_us)
        at += 1
        while at < count and seq <= MOST_ROWS + 1:
            frame = _frame(frames, at, &size)
            at += 1
            if size == COMMIT_SIZE and frame[0] == b"w" and frame[HEADER] == b"C" and seq > 1:
                end_lsn = _uint64(frame + HEADER + 10)
                if _uint64(frame + HEADER + 2) != commit_lsn or end_lsn <= self.end_lsn or end_lsn <= commit_lsn:
                    break
                records[len(records) - 1] = self._finished(records[len(records) - 1], end_lsn)
                self.commit_lsn, self.end_lsn = commit_lsn, end_lsn
                return at - first
            if size < HEADER + 8 or frame[0] != b"w":
                break
            if rows is None or oid != _uint32(frame + HEADER + 1):
                oid = _uint32(frame + HEADER + 1)
                rows = self._tables.get(oid)
            if rows is None or not rows._take(frame, size, times, chain, seq, records):
                break
            seq += 1
        del records[before:]
        return 0

    cdef tuple _constants(self, uint64_t commit_lsn, uint64_t time_us, uint32_t xid, uint64_t now_us):
        """What the records of a transaction have in common, as in cdc/log/envelope.py."""
        cdef char text[256]
        cdef char* out = text
        cdef bytes times
        out = _put_named(out, b',"ts_ms":', time_us // 1000)
        out = _put_named(out, b',"ts_us":', time_us)
        out = _put(out, b',"txId":')
        if xid:
            out += put_number(out, xid)
        else:
            out = _put(out, b"null")
        out = _put_named(out, b'},"ts_ms":', now_us // 1000)
        out = _put_named(out, b',"transaction":{"id":"', xid)
        out = _put_named(out, b":", commit_lsn)
        out = _put(out, b'","total_order":')
        times = PyBytes_FromStringAndSize(text, out - text)
        out = _put_named(text, self._epoch, commit_lsn)
        out = _put_named(out, b',"prev":', self.commit_lsn)
        out = _put(out, b',"seq":')
        return times, PyBytes_FromStringAndSize(text, out - text)

    cdef tuple _finished(self, tuple record, uint64_t end_lsn):
        """As the final record of its transaction."""
        cdef bytes value = <bytes> record[1]
        cdef char digits[DIGITS]
        cdef Py_ssize_t number_size = put_number(digits, end_lsn)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(value) - 2
        cdef bytes finished = PyBytes_FromStringAndSize(
            NULL, size + PyBytes_GET_SIZE(_LAST) + number_size + PyBytes_GET_SIZE(self._ending)
        )
        cdef char* out = PyBytes_AS_STRING(finished)
        memcpy(out, PyBytes_AS_STRING(value), size)
        out = _put(out + size, _LAST)
        memcpy(out, digits, number_size)
        _put(out + number_size, self._ending)
        return record[0], finished


cdef bytes _LAST = b',"last":true,"end_lsn":'


cdef inline Bytes _frame(list frames, Py_ssize_t at, Py_ssize_t* size) noexcept:
    size[0] = PyBytes_GET_SIZE(<bytes> PyList_GET_ITEM(frames, at))
    return <Bytes> PyBytes_AS_STRING(<bytes> PyList_GET_ITEM(frames, at))


cdef inline char* _put_named(char* out, bytes name, uint64_t number) noexcept:
    out = _put(out, name)
    return out + put_number(out, number)
