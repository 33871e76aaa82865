"""Training, validation and test: which image has which role."""
