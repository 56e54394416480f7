"""A tuned arm as a recipe for other tools, and an adapter as a plain LoRA file."""
