"""What a learner's server does beside serving: it ends when it is told to, whatever it is writing at that moment."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gradlab.settings import ROOT

# A log whose writing takes a while, and a signal in the middle of it.
SERVER = """
import os, signal, sys, time
from tornado.ioloop import IOLoop
from labkit import serverextension

class Server:
    io_loop = IOLoop()
    writing = False

    def write(self):
        assert not self.writing, "reentrant call"
        self.writing = True
        time.sleep(0.2)
        self.writing = False

    def _signal_stop(self, number, frame):
        self.write()
        self.io_loop.add_callback_from_signal(self.io_loop.stop)

server = Server()
if sys.argv[1] == "ours":
    serverextension._start_nursery = lambda server: None  # it is tested with kernels
    serverextension._load_jupyter_server_extension(server)
else:
    signal.signal(signal.SIGTERM, server._signal_stop)

def busy():
    signal.setitimer(signal.ITIMER_REAL, 0.1)  # in the middle of the writing
    server.write()

signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
server.io_loop.add_callback(busy)
server.io_loop.call_later(5, lambda: os._exit(3))
server.io_loop.start()
print("stopped")
"""


@pytest.mark.parametrize(("whose", "status", "says"), [("ours", 0, ""), ("jupyter_server's", 3, "reentrant call")])
def test_a_server_that_is_writing_to_its_log_stops_when_it_is_told_to(whose: str, status: int, says: str) -> None:
    """With a handler as jupyter_server has it the signal is lost; that shows that the test can fail."""
    argv = [sys.executable, "-c", SERVER, whose]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert (done.stdout == "stopped\n") == (whose == "ours")
