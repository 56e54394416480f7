"""Compare parameter-efficient fine-tuning methods on the same model, data, tuning budget and
device."""

__version__ = "0.1.0"
