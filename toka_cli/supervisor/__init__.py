"""Owns processes: starts cells, watches them, and ends whole process trees."""
