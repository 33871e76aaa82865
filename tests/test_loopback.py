"""A page's address is told when it answers, and its end is not called an interruption of work."""

import signal
import socket
import subprocess
import sys

from mlflow_server import free_port

PROGRAM = (
    "import sys; from pipeline.loopback import serve_page; "
    "serve_page('the page', [sys.executable, '-c', sys.argv[1], sys.argv[2]], port=int(sys.argv[2]), target='ui')"
)
SERVER = (
    "import socket, sys, time; time.sleep(0.5); held = socket.create_server(('127.0.0.1', int(sys.argv[1]))); "
    "time.sleep(100)"
)


def test_address_is_told_when_it_answers_and_the_end_as_an_end() -> None:
    port = free_port()
    command = [sys.executable, "-c", PROGRAM, SERVER, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        assert served.stdout.readline() == "the page: starting\n"
        assert served.stdout.readline() == f"the page: http://127.0.0.1:{port}/  (Ctrl-C ends it)\n"
        socket.create_connection(("127.0.0.1", port)).close()
        served.send_signal(signal.SIGTERM)
        assert served.communicate(timeout=60)[1] == "the page has ended\n"
        assert served.returncode == 130
