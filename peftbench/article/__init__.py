"""The article's claims: each with its rule and margin in the file of its method, and verdicts."""
