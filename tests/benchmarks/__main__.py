"""Run every benchmark and print one table."""

from tests.benchmarks import command, drafting, engine

print("| what | median | target | note |\n|---|---|---|---|")
for part in (engine, drafting, command):
    part.main()
