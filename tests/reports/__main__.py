"""Print reported beside simulated speed-ups: `python -m tests.reports [NAME ...]`, all reports unless named."""

import sys

from tests.reports.facts import load_reports
from tests.reports.replay import replay
from tests.reports.summary import HEADER, line, summary

reports = load_reports()
rows = [one for name in sys.argv[1:] or reports for one in replay(name, reports[name])]
print(HEADER, *map(line, rows), "", *summary(rows), sep="\n")
