"""Objectives and constraints of a search, and the metrics of a trial that they are made of."""
