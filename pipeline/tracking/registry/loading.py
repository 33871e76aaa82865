"""Loading of registered models as their users load them, and of the predictions of their evaluation runs."""

import tempfile
import warnings
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException

from pipeline.errors import UserError
from pipeline.tracking.store import Store, as_global_store, client


def load_registered(store: Store, name: str, version: int) -> Any:
    """Returns the model of a version, with MLflow's `predict`, run by the program that was registered with it.

    Args:
        store: the tracking store.
        name: name of the registered model.
        version: number of the version.

    Raises:
        UserError: the store fails, or the model cannot be loaded here.
    """
    what = f"models:/{name}/{version}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's first import warns about its own type hints
        from mlflow import pyfunc
    try:
        with as_global_store(store):
            return pyfunc.load_model(what)
    except (MlflowException, OSError) as error:
        raise UserError(f"{what}: fetching it from {store.shown} failed\n  {store.reason(error)}") from None
    except Exception as error:  # the registered program and its packages may raise anything
        raise UserError(
            f"{what} was fetched, but its program fails in this environment: {store.reason(error)}\n  compare the "
            "installed packages with the model's requirements.txt"
        ) from error


def fetch_predictions(store: Store, run_id: str) -> dict[str, "np.ndarray[Any, Any]"] | None:
    """Returns the arrays of an evaluation run's predictions.npz, or None if the run or the file no longer exists.

    Args:
        store: the tracking store.
        run_id: the evaluation's run.

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
