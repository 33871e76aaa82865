"""What a search optimises, its constraints, and the metrics of a trial."""
