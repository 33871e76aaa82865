"""One folder a DVC stage, whose `__main__` is its recipe. `python -m pipeline.stages.NAME` runs one, `dvc repro` all.

A stage ends with status 0, with 2 when the user must change something, with 3 when a gate said no, and with 130 when
it was interrupted.
"""

import sys

from pipeline.compute.limits import limit_threads
from pipeline.compute.user import settle_user
from pipeline.entry import report_interrupted_imports
from pipeline.environment import clean_environment
from pipeline.fork_server import delegate_to_server

if sys.argv[:1] == ["-m"]:  # `python -m` is about to import one of them, which takes seconds
    clean_environment()  # before any package reads it
    delegate_to_server()
    limit_threads()
    settle_user()
    report_interrupted_imports()
