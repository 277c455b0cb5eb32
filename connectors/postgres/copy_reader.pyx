# cython: language_level=3, boundscheck=False, wraparound=False
"""HOT PATH, compiled: the messages of a COPY that have arrived, many in one call.

It calls libpq itself, by the addresses of its functions, and waits for nothing; `connectors/postgres/copy_data.py` does
the same with psycopg.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize

ctypedef int (*GetCopyData)(void* connection, char** message, int is_async) noexcept
ctypedef void (*FreeMem)(void* message) noexcept
ctypedef int (*ConsumeInput)(void* connection) noexcept


def read(size_t get_copy_data, size_t free_mem, size_t consume_input, size_t connection, list messages not None,
         Py_ssize_t most_bytes, Py_ssize_t most):
    """Append messages until there are `most_bytes` or `most`, or none has arrived that is whole. What PQgetCopyData
    answered last - the size of a message, 0 when there is no whole one now, -1 after the last, -2 for an error, also of
    PQconsumeInput - and how many bytes were appended."""
    cdef GetCopyData get = <GetCopyData> get_copy_data
    cdef FreeMem free = <FreeMem> free_mem
    cdef ConsumeInput consume = <ConsumeInput> consume_input
    cdef char* message = NULL
    cdef int size = 1
    cdef bint consumed = False
    cdef Py_ssize_t taken = 0
    while taken < most_bytes and most > 0:
        size = get(<void*> connection, &message, True)
        if size == 0 and not consumed:
            if not consume(<void*> connection):
                return -2, taken
            consumed = True
            continue
        if size <= 0:
            break
        consumed = False
        try:
            messages.append(PyBytes_FromStringAndSize(message, size))
        finally:
            free(message)
        taken += size
        most -= 1
    return size, taken
