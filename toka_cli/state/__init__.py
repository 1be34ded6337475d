"""Remembers: one SQLite file per run, written by its owner alone and read by everybody."""
