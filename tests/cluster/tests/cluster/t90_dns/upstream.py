"""A name server that does what its names say. Arguments: an address, and whether it is the first one."""
import socket
import struct
import sys
import threading

ADDRESS, FIRST = sys.argv[1], sys.argv[2] == "first"


def name_of(query):
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode().lower())
        at += query[at] + 1
    return ".".join(labels), at + 5


def message(query, end, rcode, count, truncated=False, stray=False):
    flags = 0x8180 | rcode | (0x0200 if truncated else 0)
    number = bytes([query[0] ^ 1, query[1]]) if stray else query[:2]
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4"
    records = b"".join(record + bytes([203, 0, 113, n]) for n in range(1, count + 1))
    return number + struct.pack(">HHHHH", flags, 1, count, 0, 0) + query[12:end] + records


def answers(query, tcp):
    name, end = name_of(query)
    if FIRST and name == "failing.example" or name == "dead.example":
        return [message(query, end, 2, 0)]
    if FIRST and name == "silent.example":
        return []
    if name == "none.example":
        return [message(query, end, 3, 0)]
    if name == "big.example":
        return [message(query, end, 0, 100) if tcp else message(query, end, 0, 2, truncated=True)]
    if name == "spoofed.example":
        other = query[:13] + b"x" + query[14:]
        return [message(query, end, 0, 9, stray=True), message(other, end, 0, 9),
                message(query, end, 0, 1)]
    return [message(query, end, 0, 1)]


def streams(listener):
    while True:
        stream, _ = listener.accept()
        length = struct.unpack(">H", stream.recv(2, socket.MSG_WAITALL))[0]
        for answer in answers(stream.recv(length, socket.MSG_WAITALL), True):
            stream.sendall(struct.pack(">H", len(answer)) + answer)
        stream.close()


listener = socket.create_server((ADDRESS, 53))
threading.Thread(target=streams, args=(listener,), daemon=True).start()
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind((ADDRESS, 53))
while True:
    query, client = datagrams.recvfrom(4096)
    for answer in answers(query, False):
        datagrams.sendto(answer, client)
