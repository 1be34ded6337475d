"""Makes the plan happen: starts what is ready, skips what cannot be, ends the run."""
