"""Run every benchmark and print one table."""

from tests.benchmarks import arctic, command, drafting, engine, importing, policies, serving, sweep, systems

print("| what | median | target | note |\n|---|---|---|---|")
for part in (engine, serving, systems, policies, sweep, drafting, arctic, command, importing):
    part.main()
