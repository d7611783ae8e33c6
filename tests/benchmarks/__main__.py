"""Run every benchmark and print one table."""

from tests.benchmarks import command, drafting, engine, policies

print("| what | median | target | note |\n|---|---|---|---|")
for part in (engine, policies, drafting, command):
    part.main()
