"""Search: Ray Tune runs trials, Optuna proposes configurations, the journal records every event. Both libraries are
imported here and nowhere else.
"""
