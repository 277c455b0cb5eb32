"""Sizes and times as people read them."""

from __future__ import annotations


def size(number: int | None) -> str:
    if number is None:
        return "?"
    for unit in ("B", "kB", "MB", "GB"):
        if number < 10_000:
            return f"{number} {unit}"
        number //= 1024
    return f"{number} TB"


def count(number: int | None) -> str:
    return "" if number is None else f"{number:,}".replace(",", " ")


def duration(seconds: float) -> str:
    """Two units, the larger one first."""
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.0f} s"
    if whole < 3600:
        parts = (whole // 60, "min", whole % 60, "s")
    elif whole < 86400:
        parts = (whole // 3600, "h", whole % 3600 // 60, "min")
    else:
        parts = (whole // 86400, "d", whole % 86400 // 3600, "h")
    larger, unit, smaller, its_unit = parts
    return f"{larger} {unit} {smaller} {its_unit}" if smaller else f"{larger} {unit}"
