"""The composition root: settings in, running parts out. The only place that knows the connectors.

A module a command, so that each loads its own parts only; `group.py` is what all start from.
"""
