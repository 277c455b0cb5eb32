"""`python -m cdc` is the command `cdc`."""

from cdc.cli.main import main

main()
