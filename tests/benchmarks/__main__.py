"""Run every benchmark and print one table."""

from tests.benchmarks import arctic, command, drafting, engine, policies, sweep

print("| what | median | target | note |\n|---|---|---|---|")
for part in (engine, policies, sweep, drafting, arctic, command):
    part.main()
