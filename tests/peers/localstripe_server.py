"""Starts localstripe on a free port of 127.0.0.1 and prints the port.

localstripe's own command listens on every address of the machine and writes /tmp/localstripe.pickle, where two runs would
meet; its application is the same.
"""

import socket

from aiohttp import web
from localstripe import resources, server

resources.Store.dump_to_disk = lambda store: None

listener = socket.socket()
listener.bind(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
web.run_app(server.app, sock=listener, access_log=None, print=None)
