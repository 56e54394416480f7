"""Running generated code confined. Standard library only: the confined processes import it without
site packages."""
