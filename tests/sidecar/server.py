"""Servers for the sidecar's tests: `KIND ADDRESS PORT` three by three; says `ready` when all of them listen.

banner: speaks first, then echoes. echo: echoes. http: answers every request with its name.
"""
import http.server
import socket
import sys
import threading


def relay(connection, first):
    with connection:
        connection.sendall(first)
        while data := connection.recv(4096):
            connection.sendall(data)


def accept(listener, first):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=relay, args=(connection, first), daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name, forwarded = self.server.name, self.headers.get_all("X-Forwarded-For")
        body = f"{name} host={self.headers['Host']} for={forwarded} path={self.path}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def __init__(self, address, port):
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.name = f"{address}:{port}"
        super().__init__((address, port), Handler)


words = sys.argv[1:]
for kind, address, port in zip(words[::3], words[1::3], words[2::3]):
    if kind == "http":
        run, arguments = Server(address, int(port)).serve_forever, ()
    else:
        listener = socket.create_server((address, int(port)))
        run, arguments = accept, (listener, b"hello\n" if kind == "banner" else b"")
    threading.Thread(target=run, args=arguments, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
