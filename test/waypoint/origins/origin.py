"""An origin that says on standard output which requests it saw. Answers with the path; reads chunked bodies itself."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LOCK = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self):
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while True:
                size = int(self.rfile.readline().split(b";")[0], 16)
                self.rfile.read(size)
                self.rfile.readline()
                if size == 0:
                    break
        else:
            self.rfile.read(int(self.headers.get("content-length") or 0))
        with LOCK:  # one line at a time
            print("SEEN", self.command, self.path, flush=True)
        body = self.path.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.handle_any
        raise AttributeError(name)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.handle_error = lambda *_: None  # clients that reset are what this is about
print("PORT", server.server_port, flush=True)
server.serve_forever()
