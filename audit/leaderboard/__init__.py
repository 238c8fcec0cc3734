"""How well a scan found what was planted: metrics, tables and a figure. Reads files only."""
