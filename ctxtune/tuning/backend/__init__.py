"""The executor: all that knows Ray."""
