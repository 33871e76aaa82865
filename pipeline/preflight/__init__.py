"""What is validated and measured before work starts."""
