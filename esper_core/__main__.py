"""`python -m esper_core`: the command line, for when another package owns the name `esper`."""

from esper_core.cli import main

if __name__ == "__main__":
    main(prog_name="esper")
