"""The second program: a fork server and the cell in which one agent works. Never imported by the first program."""
