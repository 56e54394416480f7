"""What runs inside the sandbox: imported by its processes only, and of the standard library only,
so that they start fast."""
