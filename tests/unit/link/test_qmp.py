"""The monitor connection against a peer that is not QEMU."""

from __future__ import annotations

import json
import socket
import threading

from breenix_gdbagent.link.qmp import Qmp

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": []}}
RESET = {"event": "RESET", "data": {"guest": True, "reason": "guest-reset"}}


def monitor(peer: socket.socket) -> None:
    """A guest that resets all the time: an event comes before each answer."""

    def say(*messages: object) -> None:
        peer.sendall(b"".join(json.dumps(one).encode() + b"\r\n" for one in messages))

    say(GREETING)
    while raw := peer.recv(1 << 16):  # a client that waits for each answer sends one at a time
        asked = json.loads(raw)
        status = {"status": "running"} if asked["execute"] == "query-status" else {}
        stamp = {"timestamp": {"seconds": 0, "microseconds": 0}}
        answer = {"return": status}
        say({**RESET, **stamp}, {**answer, "id": asked["id"]} if "id" in asked else answer)


def test_an_event_before_the_answer_is_no_failed_negotiation() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        threading.Thread(target=monitor, args=(theirs,), daemon=True).start()
        qmp = Qmp(ours)
        assert qmp.status() == "running"
        assert [event.name for event in qmp.events()] == ["RESET"]
        qmp.close()
