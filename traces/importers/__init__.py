"""Traces from what other systems log: one file for each format, `import_trace` and `import_files` to read them.

Every importer names the file and line of what it cannot read. What it had to assume goes into the trace's provenance.
"""

from traces.importers.dispatch import FORMATS
from traces.importers.importing import Written, import_files, import_trace

__all__ = ["FORMATS", "Written", "import_files", "import_trace"]
