"""A trace at other sizes, without the model's code: what torch gives for tensors without data, node by node."""
