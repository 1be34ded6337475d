"""toka: teams of LLM agents as real processes, with limits, gates, budgets and exit codes that scripts can trust."""

__version__ = "0.1.0"
