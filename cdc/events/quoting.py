"""Names in statements that people are told to run, each of which is one line."""

from __future__ import annotations

import re

_IDENTIFIER = re.compile('"(?:[^"]|"")*"')


def quoted(*names: str) -> str:
    """As SQL writes them, whatever they hold."""
    return in_one_line(".".join('"' + name.replace('"', '""') + '"' for name in names))


def in_one_line(ddl: str) -> str:
    """The same with Unicode escapes in names that hold what a line cannot: line breaks, or spaces one after another."""
    return _IDENTIFIER.sub(lambda found: _escaped(found[0]), ddl)


def _escaped(identifier: str) -> str:
    """Neither with a backslash nor with an apostrophe, which a console's log would write in another way."""
    if identifier.isprintable() and "  " not in identifier:
        return identifier
    signs = (sign if sign.isprintable() and sign != "!" else f"!+{ord(sign):06X}" for sign in identifier)
    return "U&" + "".join(signs).replace("  ", " !0020") + " UESCAPE $$!$$"
