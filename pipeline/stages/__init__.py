"""DVC stages, a folder each, whose `__main__` is the recipe. `python -m pipeline.stages.NAME` runs one stage,
`dvc repro` all of them.

Exit status of a stage: 0 when it has succeeded, 2 when the user must change something, 3 when a gate refuses
(`pipeline.errors.GateRefused`), and 130 when it was interrupted.
"""

import sys

from pipeline.compute.limits import limit_threads
from pipeline.compute.user import settle_user
from pipeline.entry import report_interrupted_imports
from pipeline.environment import clean_environment
from pipeline.fork_server import delegate_to_server

if sys.argv[:1] == ["-m"]:  # Python is about to import a stage, which takes seconds
    clean_environment()  # before any package reads the environment
    delegate_to_server()
    limit_threads()
    settle_user()
    report_interrupted_imports()
