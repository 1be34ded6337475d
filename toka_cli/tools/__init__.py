"""What agents can do, one catalog. Runs inside the cell: standard library and msgspec only."""
