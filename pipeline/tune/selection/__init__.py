"""Which configuration is the best, confirmed and written down."""
