"""Sends what is no query, or a bad one. Says how many answers came to what has to have one."""
import os
import socket
import struct

SERVER = ("127.0.0.11", 53)
HEAD = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0)
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(20)
for junk in [b"", b"\0" * 11, os.urandom(4097), HEAD[:2] + b"\x81" + HEAD[3:], b"\xff" * 65000]:
    client.sendto(junk, SERVER)
answered = 0
for bad in [HEAD, HEAD + b"\xc0\x0c\0\1\0\1", HEAD + b"\x3f" + b"x" * 20,
            HEAD[:4] + b"\xff\xff" + HEAD[6:], HEAD[:2] + b"\x29" + HEAD[3:] + b"\0\0\1\0\1"]:
    client.sendto(bad, SERVER)
    answer = client.recv(4096)
    answered += answer[:2] == HEAD[:2] and answer[3] & 15 in (1, 4)
for junk in [b"\xff\xff", b"\0\0", b"\0\x05hello", struct.pack(">H", 12) + b"\xff" * 12]:
    with socket.create_connection(SERVER, 20) as stream:
        stream.sendall(junk)
        stream.shutdown(socket.SHUT_WR)
        while stream.recv(4096):
            pass
print(answered)
