"""The code that runs a search on Ray Tune."""
