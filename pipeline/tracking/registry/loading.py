"""Registered models in use: loaded as their users load them, and what the runs behind them have left."""

import tempfile
import warnings
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException

from pipeline.errors import UserError
from pipeline.tracking.store import Store, as_global_store, client


def load_registered(store: Store, name: str, version: int) -> Any:
    """The model of a version, with MLflow's `predict`, run by the program that was registered with it.

    Raises:
        UserError: the store fails, or the model cannot be loaded here.
    """
    what = f"models:/{name}/{version}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow, when first imported, warns of its own type hints
        from mlflow import pyfunc
    try:
        with as_global_store(store):
            return pyfunc.load_model(what)
    except (MlflowException, OSError) as error:
        raise UserError(f"{what}: fetching it from {store.shown} failed\n  {store.reason(error)}") from None
    except Exception as error:  # whatever the registered program and its packages raise
        raise UserError(f"{what} cannot be loaded here: {store.reason(error)}") from error


def fetch_predictions(store: Store, run_id: str) -> dict[str, "np.ndarray[Any, Any]"] | None:
    """The arrays of an evaluation run's predictions.npz; None where the run, or the file, is not to be had any more.

    Raises:
        UserError: the store does not answer.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = client(store).download_artifacts(run_id, "predictions.npz", folder)
            with np.load(found) as archive:
                return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, MlflowException) as error:
        if isinstance(error, MlflowException) and error.error_code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"):
            raise UserError(f"run {run_id}: asking {store.shown} failed\n  {store.reason(error)}") from None
        return None
