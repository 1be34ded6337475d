"""What the user wants: agent specs and orchestration files, read with places, normalised, refused with file:line:column."""
