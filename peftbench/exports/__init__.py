"""A tuned arm as a recipe for other tools, and an adapter as a plain LoRA file. (A package called
`export` would take the place of the function `peftbench.export`.)"""
