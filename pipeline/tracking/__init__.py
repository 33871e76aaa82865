"""The record of what was done: runs, models and their versions. MLflow is imported in this room and nowhere else.

`store` finds and checks the place; `runs` writes searches and `single_run` other runs, both through `pending`;
`registry` packs models and versions them.
"""

import os

# MLflow decides on its telemetry when it is imported, so this cannot wait for a function to be called. It is a default:
# what the user has set stands.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
