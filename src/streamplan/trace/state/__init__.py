"""The Python state of a model: tokens that tell whether it is another one, and copies that can be put back."""
