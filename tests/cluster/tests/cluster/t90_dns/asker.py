"""Asks for one name until /run/stop is there; how often, to /run/asked; in the end, and how many answers
were lost."""
import os
import socket
import struct
import time

client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(20)
asked = lost = 0
while not os.path.exists("/run/stop"):
    asked += 1
    query = struct.pack(">HHHHHH", asked & 0xffff, 0x100, 1, 0, 0, 0) + b"\3two\3web\0\0\1\0\1"
    client.sendto(query, ("127.0.0.11", 53))
    try:
        answer = client.recv(4096)
        if answer[:2] != query[:2] or answer[3] & 15 or answer[7] != 1:
            lost += 1
    except OSError:
        lost += 1
    with open("/run/asked.new", "w") as file:
        file.write(str(asked))
    os.rename("/run/asked.new", "/run/asked")
    time.sleep(.005)
print(asked, lost)
