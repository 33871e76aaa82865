"""Search: Ray Tune runs trials, Optuna proposes configurations, and the journal records every event.

Optuna is imported in this room and nowhere else. Ray is imported here and in `cluster`.
"""
