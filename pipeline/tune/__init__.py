"""The search: Ray Tune runs trials, Optuna proposes configurations, the journal records every event.

Optuna is imported in this room and nowhere else, Ray here and in `cluster`.
"""
