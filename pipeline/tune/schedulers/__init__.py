"""Stopping rules that end trials early: ASHA, Hyperband, median stopping."""
