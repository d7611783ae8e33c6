"""Run every benchmark and print one table."""

from tests.benchmarks import command, drafting, engine, policies, sweep

print("| what | median | target | note |\n|---|---|---|---|")
for part in (engine, policies, sweep, drafting, command):
    part.main()
