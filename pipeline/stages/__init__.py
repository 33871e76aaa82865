"""One folder a DVC stage, whose `__main__` is its recipe. `python -m pipeline.stages.NAME` runs one, `dvc repro` all.

A stage ends with status 0, with 2 when the user must change something, with 3 when a gate said no, and with 130 when
it was interrupted.
"""

import sys

from pipeline.compute.limits import limit_threads
from pipeline.compute.user import settle_user
from pipeline.entry import tell_interrupted_imports
from pipeline.environment import settle_environment
from pipeline.fork_server import run_in_copy

if sys.argv[:1] == ["-m"]:  # `python -m` is about to import one of them, which takes seconds
    settle_environment()  # before any package reads it
    run_in_copy()
    limit_threads()
    settle_user()
    tell_interrupted_imports()
