"""What a worker has to say of a session that it watches is not lost, however much is said at once."""

from __future__ import annotations

import json
import socket
from contextlib import suppress

from tests.load.watching import _Watch

REFUSED = 0.0, 200, b'{"sub": null}'


def test_refusal_that_finds_no_room_is_told_again_with_its_time(tmp_path):
    path = str(tmp_path / "watchers")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as test,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door,
    ):
        test.bind(path)
        test.setblocking(False)
        door.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                door.sendto(b"another's", path)
        watch = _Watch(json.dumps({"number": 1, "cookie": "", "to": path}).encode(), door)

        assert watch.goes_on(*REFUSED)
        refused_at = watch._refused_at
        assert test.recv(99) == b"another's"
        assert not watch.goes_on(*REFUSED)

        said = []
        with suppress(BlockingIOError):
            while True:
                said.append(test.recv(999))
        assert json.loads(said[-1])["refused_at"] == refused_at
