"""Pictures of a sweep: what time costs in verified tokens, and what each key does."""
from pathlib import Path
def save_sweep_plots(table, asked, folder): return []
