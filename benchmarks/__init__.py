"""One training step of several nets, plain, checkpointed, streamed and with lightstream: seconds, bytes, errors."""
