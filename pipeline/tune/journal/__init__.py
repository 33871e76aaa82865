"""What happened in a search, and what resuming is built on."""
