"""What the compiled modules share about JSON as bytes."""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

cdef enum:
    DIGITS = 20  # of the largest number of 64 bits

cdef enum:
    QUOTE = 0x22
    BACKSLASH = 0x5C


cdef inline bint is_plain(uint64_t word) noexcept nogil:
    """Whether each of eight bytes is ASCII and stands for itself in a string of JSON."""
    cdef uint64_t each = 0x0101010101010101
    cdef uint64_t quote = word ^ (each * QUOTE)
    cdef uint64_t backslash = word ^ (each * BACKSLASH)
    return not (
        (word | ((quote - each) & ~quote) | ((backslash - each) & ~backslash) | ((word - each * 0x20) & ~word))
        & (each * 0x80)
    )


cdef inline Py_ssize_t put_number(char* out, uint64_t number) noexcept nogil:
    """How many of `DIGITS` bytes it took."""
    cdef char digits[DIGITS]
    cdef int at = DIGITS
    while True:
        at -= 1
        digits[at] = <char> (48 + number % 10)
        number //= 10
        if not number:
            break
    memcpy(out, &digits[at], DIGITS - at)
    return DIGITS - at
