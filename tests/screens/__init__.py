"""Screenshots of what the reports look like, and a check of the timeline by Perfetto's own trace processor."""
