"""nanio with versitygw's command line: [--port :N] [--health PATH] posix FOLDER; keys in ROOT_ACCESS_KEY, ROOT_SECRET_KEY."""

import argparse
import os
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", default=":7070")
    parser.add_argument("--health", required=True)
    parser.add_argument("backend", choices=["posix"])
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    os.environ["NANIO_ACCESS_KEY"], os.environ["NANIO_SECRET_KEY"] = (
        os.environ[f"ROOT_{kind}_KEY"] for kind in ("ACCESS", "SECRET")
    )
    os.environ["NANIO_DATA_DIR"] = str(given.folder)

    import uvicorn
    from nanio.app import build_app
    from starlette.responses import Response

    app = build_app()

    async def with_health(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == given.health:
            await Response("OK")(scope, receive, send)
        else:
            await app(scope, receive, send)

    uvicorn.run(with_health, host="0.0.0.0", port=int(given.port.rpartition(":")[2]), access_log=False)


if __name__ == "__main__":
    main()
