"""The stage that trains the best setting and its control again, into models."""
