"""`python -m simulator.cli`: the command where no script of it is installed."""

from simulator.cli import command

command()
