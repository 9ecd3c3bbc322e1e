"""`python -m esper_core`: the command line, for when another package owns the name `esper`.

Role: starts it under the name that its messages use.
Neighbours: `cli` is the command line.
"""

from esper_core.cli import main

if __name__ == "__main__":
    main(prog_name="esper")
