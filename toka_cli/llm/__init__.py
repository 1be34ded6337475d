"""The outside world of models."""
