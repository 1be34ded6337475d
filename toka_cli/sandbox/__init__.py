"""The walls, one mechanism a file."""
