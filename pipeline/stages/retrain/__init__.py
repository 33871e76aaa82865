"""The stage that trains the best configuration and its control with further seeds, into models."""
