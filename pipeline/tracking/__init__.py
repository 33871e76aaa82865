"""Records of runs, models and their versions in MLflow. MLflow is imported in this room and nowhere else.

`store` finds and checks the tracking store. `runs` writes searches and `single_run` other runs, both through
`pending`. `registry` packs models and versions them.
"""

import os

# MLflow reads this variable when it is imported, so it is set here and not in a function. A value that the user has set
# is not changed.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
