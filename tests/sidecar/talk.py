"""Connects to ADDRESS PORT, sends the bytes given in hexadecimal, and prints in the same way what comes until a line's end.
Then waits until its input is closed, if there is one."""
import socket
import sys

address, port, say = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3] if len(sys.argv) > 3 else "")
with socket.create_connection((address, port)) as connection:
    connection.sendall(say)
    print(connection.makefile("rb").readline().hex(), flush=True)
    sys.stdin.read()
