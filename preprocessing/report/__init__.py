"""The report of a data set: its numbers, charts and HTML page."""
