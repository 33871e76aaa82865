"""Serves MLflow from PostgreSQL and an S3 store: waits for both, makes the bucket, then becomes `mlflow server`.

The command of compose.yaml's service `mlflow`, from environment variables alone, so that no password stands in a
command that others see. What will not get better by waiting is said in a sentence.
"""

import os
import sys
import time
from collections.abc import Callable
from urllib.parse import quote

PATIENCE_S = 120
DATABASE, BUCKET = "mlflow", "mlflow"


class NotYet(Exception):
    """What is not there yet, and may come."""


class NeverSo(Exception):
    """What the user must change."""


def database_address(password: str, host: str = "postgres") -> str:
    """The address of the database for SQLAlchemy; the password may have any sign."""
    return f"postgresql+psycopg2://mlflow:{quote(password, safe='')}@{host}/{DATABASE}"


def await_database(password: str, host: str = "postgres") -> None:
    """See whether the database answers.

    Raises:
        NotYet: it does not.
        NeverSo: it does not take the password.
    """
    import psycopg2

    try:
        psycopg2.connect(host=host, user="mlflow", password=password, dbname=DATABASE, connect_timeout=5).close()
    except psycopg2.OperationalError as error:
        said = " ".join(str(error).split())
        if "password authentication failed" in said:
            raise NeverSo(
                "PostgreSQL does not take POSTGRES_PASSWORD of docker/.env: its volume was made with another one. Put "
                "that one back, or set the new one in the container of postgres: psql -U mlflow -c '\\password'"
            ) from None
        raise NotYet(f"PostgreSQL does not answer: {said}") from None


def await_store(endpoint: str) -> None:
    """See whether the S3 store answers and can be written; makes the bucket where there is none.

    Raises:
        NotYet: it does not answer.
        NeverSo: it does not take the keys, or nothing can be written.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    patience = Config(
        connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}
    )
    client = boto3.client("s3", endpoint_url=endpoint, config=patience)
    try:
        if BUCKET not in [bucket["Name"] for bucket in client.list_buckets().get("Buckets", [])]:
            client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key=".writable", Body=bytes(1 << 16))
        client.delete_object(Bucket=BUCKET, Key=".writable")
    except ClientError as error:
        code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        if status in (401, 403):
            raise NeverSo(
                f"the S3 store does not take S3_USER and S3_PASSWORD of docker/.env ({code}): it was started with "
                "others. After a change of docker/.env, start all services anew"
            ) from None
        if error.operation_name == "PutObject":
            raise NeverSo(f"the S3 store takes no file ({code}): is the disk of the volume s3 full?") from None
        raise NotYet(f"the S3 store answers {code}") from None
    except BotoCoreError as error:
        raise NotYet(f"the S3 store does not answer: {' '.join(str(error).split())}") from None


def settle(*asks: Callable[[], None], patience: float = PATIENCE_S, pause: float = 2.0) -> None:
    """Ask each until it has nothing against it.

    Raises:
        NeverSo: one has, or still had after so many seconds.
    """
    until = time.monotonic() + patience
    for ask in asks:
        while True:
            try:
                ask()
                break
            except NotYet as error:
                if time.monotonic() > until:
                    raise NeverSo(f"{error}. Its own words: docker compose logs") from None
                time.sleep(pause)


def main() -> None:
    """Settle, and become the server."""
    password, endpoint = os.environ["POSTGRES_PASSWORD"], os.environ["MLFLOW_S3_ENDPOINT_URL"]
    try:
        settle(lambda: await_database(password), lambda: await_store(endpoint))
    except NeverSo as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        time.sleep(5)  # started again by its restart policy, it should not fill the log
        sys.exit(2)
    os.environ["MLFLOW_BACKEND_STORE_URI"] = database_address(password)
    port = os.environ.get("PUBLISHED_PORT", "5000")
    hosts = f"mlflow:5000,127.0.0.1:5000,localhost:5000,127.0.0.1:{port},localhost:{port}"
    command = ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000", "--allowed-hosts", hosts]
    os.execvp(command[0], [*command, "--artifacts-destination", f"s3://{BUCKET}", "--serve-artifacts"])


if __name__ == "__main__":
    main()
