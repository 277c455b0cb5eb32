# cython: language_level=3, boundscheck=False, wraparound=False
"""HOT PATH, compiled: records of changes, from their bytes to links of the chain and lines of COPY, many in one call.

What `records.py`, `chain.py` and `connectors/postgres/copy_text.py` do with a change that needs no second look, without
an object a field between: the follower gets the same (tests/unit/test_change_reader.py). How the records of a table and
an operation begin is learned from one that was read the long way; the rest of their form is fixed. A record that is
different in any way - written otherwise than capture does it, not the next link, a NUL in a cell - is left to the long
way, which also knows what to say about it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcmp, memcpy

import orjson

from cdc.log.json_bytes cimport BACKSLASH, QUOTE, is_plain

ctypedef const unsigned char* Bytes

cdef enum:
    MOST_DIGITS = 18  # always fit; what is longer is left to the long way

cdef uint64_t _GREATEST_TIME_US = 253402300799999999  # as in cdc/log/records.py

cdef bytes _LSN = b',"lsn":'
cdef bytes _COMMITTED_MS = b',"ts_ms":'
cdef bytes _COMMITTED_US = b',"ts_us":'
cdef bytes _XID = b',"txId":'
cdef bytes _NULL = b"null"
cdef bytes _NOW = b'},"ts_ms":'
cdef bytes _TRANSACTION = b',"transaction":{"id":"'
cdef bytes _ID_COMMIT = b":"
cdef bytes _ORDER = b'","total_order":'
cdef bytes _NEW_ROW = b'},"before":null,"after":{'
cdef bytes _AFTER_NEW_ROW = b'},"cdc":{"epoch":'
cdef bytes _OLD_ROW = b'},"before":{'
cdef bytes _AFTER_OLD_ROW = b'},"after":null,"cdc":{"epoch":'
cdef bytes _COMMIT = b',"commit_lsn":'
cdef bytes _PREV = b',"prev":'
cdef bytes _SEQ = b',"seq":'
cdef bytes _LAST = b',"last":true,"end_lsn":'
cdef bytes _END = b"}}"


cdef inline Bytes _past(Bytes at, Bytes end, bytes piece) noexcept:
    """After `piece`, which must be at `at`; NULL when it is not."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(piece)
    if at == NULL or end - at < size or memcmp(at, PyBytes_AS_STRING(piece), size) != 0:
        return NULL
    return at + size


cdef inline Bytes _number(Bytes at, Bytes end, bytes piece, uint64_t* number) noexcept:
    """After `piece` and the number that follows; NULL when they are not there."""
    cdef Bytes first = _past(at, end, piece)
    cdef uint64_t value = 0
    at = first
    if at == NULL:
        return NULL
    while at < end and 48 <= at[0] <= 57:
        value = value * 10 + (at[0] - 48)
        at += 1
        if at - first > MOST_DIGITS:
            return NULL
    if at == first or (first[0] == 48 and at - first > 1):
        return NULL
    number[0] = value
    return at


cdef inline int _hex(unsigned char digit) noexcept nogil:
    if 48 <= digit <= 57:
        return digit - 48
    return digit - 87 if 97 <= digit <= 102 else -1


cdef class _Rows:
    """What one call has read of one shape of a table, in order."""

    cdef str fingerprint
    cdef list ops
    cdef list keys
    cdef list lines
    cdef Py_ssize_t complete  # how many belong to whole transactions

    def __cinit__(self, str fingerprint):
        self.fingerprint, self.ops, self.keys, self.lines, self.complete = fingerprint, [], [], [], 0


cdef class _Form:
    """How the records of one operation on one shape of a table look."""

    cdef bytes head
    cdef bytes tail
    cdef bytes before_row
    cdef bytes after_row
    cdef str op
    cdef str fingerprint
    cdef list before_value
    cdef int columns
    cdef int key_columns
    cdef int* key_at
    cdef Py_ssize_t* cell_at
    cdef Py_ssize_t* cell_end
    cdef _Form next  # of the record that came after one of this form the last time

    def __cinit__(self, bytes head, str op, str fingerprint, tuple names, tuple key):
        self.head, self.op, self.fingerprint = head, op, fingerprint
        self.tail = b',"rel":' + orjson.dumps(fingerprint)
        self.before_row = _OLD_ROW if op == "d" else _NEW_ROW
        self.after_row = _AFTER_OLD_ROW if op == "d" else _AFTER_NEW_ROW
        self.before_value = [(b"," if n else b"") + orjson.dumps(name) + b":" for n, name in enumerate(names)]
        self.columns, self.key_columns = len(names), len(key)
        self.key_at = <int*> PyMem_Malloc(max(1, len(key)) * sizeof(int))
        self.cell_at = <Py_ssize_t*> PyMem_Malloc(max(1, len(names)) * sizeof(Py_ssize_t))
        self.cell_end = <Py_ssize_t*> PyMem_Malloc(max(1, len(names)) * sizeof(Py_ssize_t))
        if self.key_at == NULL or self.cell_at == NULL or self.cell_end == NULL:
            raise MemoryError
        for n, name in enumerate(key):
            self.key_at[n] = names.index(name)

    def __dealloc__(self):
        PyMem_Free(self.key_at)
        PyMem_Free(self.cell_at)
        PyMem_Free(self.cell_end)


cdef class ChangeReader:
    """One session's reader. Not thread-safe."""

    cdef dict _forms
    cdef _Form _form
    cdef dict _rows
    cdef char* _line
    cdef Py_ssize_t _room
    cdef bytes _ending
    # of the record that was read last
    cdef uint64_t _record_epoch, _record_commit, _record_prev, _record_seq, _record_end, _record_time
    cdef Py_ssize_t _line_size
    cdef bint _is_last
    # after a call
    cdef readonly uint64_t commit_lsn, open_commit_lsn, seq, end_lsn, committed_at_us
    cdef readonly Py_ssize_t complete, size, complete_size

    def __cinit__(self):
        self._forms, self._rows, self._form = {}, {}, None
        self._line, self._room = NULL, 0

    def __dealloc__(self):
        PyMem_Free(self._line)

    def learn(self, bytes head not None, str op not None, str fingerprint not None, tuple names not None,
              tuple key not None):
        """Records that begin with `head`, which ends where the LSN stands, are such changes, with these columns in their
        row: the new one, or the old one of a deletion. The caller has made sure of it (`cdc/log/forms.py`)."""
        self._forms[head] = _Form(head, op, fingerprint, names, key)
        self._forget_order()

    def forget(self, bytes head not None):
        self._forms.pop(head, None)
        self._forget_order()

    cdef _forget_order(self):
        """No form that was left behind is taken for the next one."""
        cdef _Form form
        for form in self._forms.values():
            form.next = None
        self._form = None

    def read(self, list records not None, Py_ssize_t at, uint64_t epoch, uint64_t commit_lsn, uint64_t open_commit_lsn,
             uint64_t seq, str leader not None):
        """How many records from `records[at]` on are the next links of a chain that stands at these numbers, as in
        `Chain`, and changes whose form is known.

        Then `commit_lsn`, `open_commit_lsn` and `seq` are where the chain stands, and of the `complete` first of them,
        which end with a whole transaction, `end_lsn` and `committed_at_us` are its. Sizes are of values."""
        cdef Py_ssize_t first = at
        cdef Py_ssize_t count = len(records)
        cdef list touched = []
        cdef _Rows rows = None
        cdef _Rows last_touched = None
        cdef _Form form
        self._rows = {}
        self._ending = b',"leader":' + orjson.dumps(leader) + _END if leader else _END
        self.complete = self.size = self.complete_size = 0
        while at < count:
            value = records[at].value()
            if type(value) is not bytes or not self._read_record(<bytes> value):
                break
            if self._record_epoch != epoch:
                break
            if seq == 0:
                if self._record_commit <= commit_lsn or self._record_prev > commit_lsn or self._record_seq != 1:
                    break
            elif self._record_commit != open_commit_lsn or self._record_seq != seq + 1:
                break
            form = self._form
            if rows is None or rows.fingerprint != form.fingerprint:
                rows = self._rows.get(form.fingerprint)
                if rows is None:
                    rows = self._rows[form.fingerprint] = _Rows(form.fingerprint)
            if not self._add_key(rows.keys):
                break
            rows.ops.append(form.op)
            rows.lines.append(b"" if form.op == "d" else PyBytes_FromStringAndSize(self._line, self._line_size))
            open_commit_lsn = self._record_commit
            self.size += PyBytes_GET_SIZE(<bytes> value)
            at += 1
            if self._is_last:
                seq, commit_lsn = 0, open_commit_lsn
                self.end_lsn, self.committed_at_us = self._record_end, self._record_time
                self.complete, self.complete_size = at - first, self.size
                rows.complete = len(rows.lines)
                for other in touched:
                    (<_Rows> other).complete = len((<_Rows> other).lines)
                touched.clear()
                last_touched = None
            else:
                seq = self._record_seq
                if rows is not last_touched:
                    touched.append(rows)
                    last_touched = rows
        self.commit_lsn, self.open_commit_lsn, self.seq = commit_lsn, open_commit_lsn, seq
        return at - first

    def rows(self, bint complete):
        """(fingerprint, operations, keys, lines) of each shape in what was read: of whole transactions, or of the rest,
        which is asked for last. A key is what `operator.itemgetter` of the key's columns returns; the line of a deletion
        is nothing."""
        cdef _Rows rows
        found = []
        for rows in self._rows.values():
            if complete and rows.complete:
                end = rows.complete
                found.append((rows.fingerprint, rows.ops[:end], rows.keys[:end], rows.lines[:end]))
            elif not complete and rows.complete < len(rows.lines):
                start = rows.complete
                found.append((rows.fingerprint, rows.ops[start:], rows.keys[start:], rows.lines[start:]))
        if not complete:
            self._rows = {}
        return found

    cdef bint _read_record(self, bytes value) except -1:
        """Whether it is a change of a known form; its numbers, and its row as `_line`."""
        cdef Bytes start = <Bytes> PyBytes_AS_STRING(value)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(value)
        cdef Bytes end = start + size
        cdef Bytes at
        cdef Bytes ending
        cdef uint64_t ignored = 0
        cdef _Form form = self._form_of(value)
        if form is None:
            return False
        at = start + PyBytes_GET_SIZE(form.head)
        at = _number(at - PyBytes_GET_SIZE(_LSN), end, _LSN, &ignored)
        at = _number(at, end, _COMMITTED_MS, &ignored)
        at = _number(at, end, _COMMITTED_US, &self._record_time)
        at = _past(at, end, _XID)
        if at == NULL:
            return False
        at = _past(at, end, _NULL) if at < end and at[0] == b"n" else _number(at, end, b"", &ignored)
        at = _number(at, end, _NOW, &ignored)
        at = _number(at, end, _TRANSACTION, &ignored)
        at = _number(at, end, _ID_COMMIT, &ignored)
        at = _number(at, end, _ORDER, &ignored)
        at = _past(at, end, form.before_row)
        if at == NULL:
            return False
        if size >= self._room:
            self._line = <char*> PyMem_Realloc(self._line, size + 1)
            if self._line == NULL:
                self._room = 0
                raise MemoryError
            self._room = size + 1
        at = self._read_row(form, at, end)
        at = _number(at, end, form.after_row, &self._record_epoch)
        at = _number(at, end, _COMMIT, &self._record_commit)
        at = _number(at, end, _PREV, &self._record_prev)
        at = _number(at, end, _SEQ, &self._record_seq)
        at = _past(at, end, form.tail)
        if at == NULL:
            return False
        ending = _past(at, end, _END)
        self._is_last = ending != end
        if not self._is_last:
            return True
        at = _number(at, end, _LAST, &self._record_end)
        return (
            at != NULL and _past(at, end, self._ending) == end
            and self._record_end > self._record_commit and self._record_time <= _GREATEST_TIME_US
        )

    cdef _Form _form_of(self, bytes value):
        """None when it is not known. Where transactions are alike, so is the order of their records."""
        cdef Bytes start = <Bytes> PyBytes_AS_STRING(value)
        cdef Bytes end = start + PyBytes_GET_SIZE(value)
        cdef _Form before = self._form
        cdef _Form form
        if before is not None:
            if before.next is not None and _past(start, end, before.next.head) != NULL:
                self._form = before.next
                return self._form
            if _past(start, end, before.head) != NULL:
                before.next = before
                return before
        form = self._forms.get(value[: value.find(_LSN) + PyBytes_GET_SIZE(_LSN)])
        if form is not None:
            if before is not None:
                before.next = form
            self._form = form
        return form

    cdef Bytes _read_row(self, _Form form, Bytes at, Bytes end) except? NULL:
        """Past the row, which is `_line` then; NULL when it is not one of this form."""
        cdef char* out = self._line
        cdef int column
        cdef bint ascii = True
        for column in range(form.columns):
            at = _past(at, end, <bytes> PyList_GET_ITEM(form.before_value, column))
            if at == NULL or end - at < 4:
                return NULL
            if column:
                out[0] = b"\t"
                out += 1
            form.cell_at[column] = out - self._line
            if at[0] == QUOTE:
                at = self._read_text(at + 1, end, &out, &ascii)
                if at == NULL:
                    return NULL
                form.cell_end[column] = out - self._line
            elif memcmp(at, PyBytes_AS_STRING(_NULL), 4) == 0:
                memcpy(out, b"\\N", 2)
                out += 2
                at += 4
                form.cell_end[column] = -1
            else:
                return NULL
        if not ascii:
            try:
                PyUnicode_DecodeUTF8(self._line, out - self._line, NULL)
            except UnicodeDecodeError:
                return NULL
        out[0] = b"\n"
        self._line_size = out + 1 - self._line
        return at

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
        cdef _Form form = self._form
        cdef int n
        for n in range(form.key_columns):
            if form.cell_end[form.key_at[n]] < 0:
                return False
        if form.key_columns == 1:
            keys.append(self._text(form.key_at[0]))
        elif form.key_columns:
            keys.append(tuple([self._text(form.key_at[n]) for n in range(form.key_columns)]))
        else:
            keys.append(None)
        return True

    cdef str _text(self, int column):
        """A cell of `_line` as what it stands for."""
        cdef char* cell = self._line + self._form.cell_at[column]
        cdef Py_ssize_t size = self._form.cell_end[column] - self._form.cell_at[column]
        if memchr(cell, BACKSLASH, size) == NULL:
            return PyUnicode_DecodeUTF8(cell, size, NULL)
        return _unescaped(PyUnicode_DecodeUTF8(cell, size, NULL))


cdef str _unescaped(str cell):
    parts = [part.replace("\\n", "\n").replace("\\r", "\r").replace("\\t", "\t") for part in cell.split("\\\\")]
    return "\\".join(parts)
