"""Searches and counts on disk, read without Ray or torch."""
