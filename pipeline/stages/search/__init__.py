"""The stage that runs the search, into results/search."""
