"""Traces from what other systems log: one file for each format, and `import_trace` to choose among them.

Every importer names the file and line of what it cannot read. What it had to assume goes into the trace's provenance.
"""

from traces.importers.dispatch import FORMATS, import_trace

__all__ = ["FORMATS", "import_trace"]
