"""The stage that trains the best configuration and its control again, into models."""
