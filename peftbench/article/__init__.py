"""The article's claims, their rules and verdicts."""
