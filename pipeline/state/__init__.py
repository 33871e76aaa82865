"""Searches and counts on disk under state/, read without Ray or torch."""
