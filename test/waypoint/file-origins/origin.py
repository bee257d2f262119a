"""The file server of the standard library. Arguments: root."""

import functools
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


class Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=sys.argv[1]))
server.handle_error = lambda *_: None  # clients that send nonsense are what this is about
print("PORT", server.server_port, flush=True)
server.serve_forever()
