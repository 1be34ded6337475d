"""Shows a run: live table, plain lines, JSON lines."""
