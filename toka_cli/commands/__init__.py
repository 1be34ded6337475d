"""What the user may ask: one file per noun."""
