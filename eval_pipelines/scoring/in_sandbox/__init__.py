"""What runs inside the sandbox, on the standard library alone: the model's program, and the tests that judge it."""
