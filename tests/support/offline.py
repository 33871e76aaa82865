"""Tests without a network."""

import socket

import pytest


def refuse_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every connection fail as it does where there is no network."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
