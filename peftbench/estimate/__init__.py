"""What a step of training costs on a machine that is not here: no weights, no GPU, seconds."""
