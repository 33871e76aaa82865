"""Regularisers, one method a file: mathematics on tensors, and above it a module that says what it needs."""
