"""Answers every call an agent makes: checks, counts, records, then acts."""
