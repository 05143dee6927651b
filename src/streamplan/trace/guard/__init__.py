"""The guard run: the model's own code, run once per call on tensors without data and compared with a trace."""
