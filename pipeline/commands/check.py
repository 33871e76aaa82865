"""Check before a run: validates all that can be validated, and estimates the search from a few measured steps."""

import json
import shlex
import sys
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from pipeline.artifacts.agreement import check_dvc_lock
from pipeline.artifacts.best_config import BestConfig
from pipeline.artifacts.search_result import SearchSummary
from pipeline.compute.temp_dirs import check_temporary
from pipeline.config import Params, parameters
from pipeline.data.prepared.prepared import open_prepared
from pipeline.environment import removed_variables
from pipeline.errors import UserError, single_item_command
from pipeline.inputs.data_split import check_group_by
from pipeline.preflight.image_sizes import describe_masks, describe_sizes
from pipeline.preflight.plan import Plan, make_plan
from pipeline.preflight.power import describe_power, make_forecast, run_cost
from pipeline.preflight.profile_budget import MOST_S
from pipeline.preflight.search_budget import check_limits
from pipeline.preflight.total_estimate import describe_estimates
from pipeline.preflight.up_to_date import finished_search
from pipeline.provenance.git import unknown_files
from pipeline.provenance.stage_inputs import absent_parameters
from pipeline.provenance.weights_record import as_recorded
from pipeline.score.metrics.chosen_metric import chosen_metric
from pipeline.state.current_search import current_search
from pipeline.state.search_summary import decide_on_changed_code, describe_start
from pipeline.tune.journal.compatibility import check_same_code
from pipeline.tune.journal.image_scores import read_scores
from pipeline.tune.journal.records import JOURNAL, SearchHistory, read_history
from pipeline.tune.ray.placement import inspect_cluster
from pipeline.tune.selection.confirmed_tables import forecast_content
from pipeline.tune.task import SearchTask
from pipeline.workspace import Workspace
