"""Whether vLLM and SGLang serve what an arm leaves."""
