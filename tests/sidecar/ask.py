"""A client that keeps its connection: `HOST PORT`; asks for each path that it reads, and writes status and body on a line."""
import http.client
import sys

connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=60)
connection.connect()
first = connection.sock
for path in iter(sys.stdin.readline, ""):
    connection.request("GET", path.strip(), headers={"Host": "whatever.example"})
    answer = connection.getresponse()
    body = answer.read().decode().strip()
    print(answer.status, body if connection.sock is first else "on another connection", flush=True)
