"""What the programs agree on: frames, methods, messages."""
