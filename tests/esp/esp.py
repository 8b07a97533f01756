#!/usr/bin/env python3
"""Opens and seals ESP in UDP with scapy: an implementation that shares no code with weft.

    esp.py open KEYS PCAP    one JSON object per ESP datagram of the capture, in its order
    esp.py seal KEYS         one datagram in hex per line `SPI SEQUENCE PAYLOAD` of standard input

KEYS is a file with a line `SPI KEY SALT` per security association, all in hex; empty lines and those
that start with `#` count for nothing. It is for keys that a test made up: weft never writes one out.

Of a datagram that was opened there are `spi`, `sequence` (64 bits), `next_header` and `payload`, and, if
the payload is UDP to VXLAN, `source`, `destination`, `vni` and `frame`; of one that was not, `error`. All
have `from` and `to`, addresses. The high half of the sequence number is not in the packet: 0, 1 and the
first half of the IV are tried, and the integrity check says which it was.

Needs scapy and cryptography: apt-get install python3-scapy python3-cryptography
"""

import json
import logging
import struct
import sys

logging.getLogger("scapy").setLevel(logging.ERROR)

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, IPSecIntegrityError, SecurityAssociation, _ESPPlain
from scapy.layers.vxlan import VXLAN
from scapy.utils import PcapReader

ESP_PORT = 4500
NEXT_HEADER_UDP = 17
SHORTEST = 8 + 8 + 2 + 16


def associations(path):
    found = {}
    with open(path, encoding="ascii") as lines:
        for line in lines:
            words = line.split("#")[0].split()
            if words:
                spi, key, salt = words
                found[int(spi, 16)] = SecurityAssociation(
                    ESP,
                    spi=int(spi, 16),
                    crypt_algo="AES-GCM",
                    crypt_key=bytes.fromhex(key + salt),
                    crypt_icv_size=16,
                )
    return found


def opened(known, datagram):
    """What an ESP packet, from its SPI to its ICV, holds."""
    spi, low = struct.unpack("!II", datagram[:8])
    told = {"spi": spi}
    if spi not in known:
        return told | {"error": "unknown spi"}
    if len(datagram) < SHORTEST:
        return told | {"error": "too short"}
    association = known[spi]
    (guess,) = struct.unpack("!I", datagram[8:12])
    for high in dict.fromkeys([guess, 0, 1]):
        try:
            plain = association.crypt_algo.decrypt(
                association, ESP(datagram), association.crypt_key, 16, esn_en=True, esn=high
            )
        except IPSecIntegrityError:
            continue
        told |= {
            "sequence": high << 32 | low,
            "next_header": plain.nh,
            "payload": plain.data.hex(),
        }
        return told | (inner(plain.data) if plain.nh == NEXT_HEADER_UDP else {})
    return told | {"error": "integrity check failed"}


def inner(payload):
    udp = UDP(payload)
    vxlan = VXLAN(bytes(udp.payload))
    return {
        "source": udp.sport,
        "destination": udp.dport,
        "vni": vxlan.vni,
        "frame": bytes(vxlan.payload).hex(),
    }


def packets(reader):
    """All of them, also those that with their link header have more than 65,535 bytes."""
    while True:
        try:
            yield reader.read_packet(size=1 << 18)
        except EOFError:
            return


def open_capture(known, path):
    for packet in packets(PcapReader(path)):
        network = packet.getlayer(IP) or packet.getlayer(IPv6)
        if network is None or not isinstance(network.payload, UDP):
            continue
        udp = network.payload
        datagram = bytes(udp.payload)[: udp.len - 8]
        if ESP_PORT not in (udp.sport, udp.dport) or datagram == b"\xff":
            continue
        told = {"from": network.src, "to": network.dst}
        if len(datagram) < 8 or datagram[:4] == bytes(4):
            told |= {"error": "no esp"}
        else:
            told |= opened(known, datagram)
        print(json.dumps(told))


def seal(known):
    for line in sys.stdin:
        spi, sequence, payload = line.split()
        association, sequence = known[int(spi, 16)], int(sequence, 16)
        plain = _ESPPlain(
            spi=association.spi,
            seq=sequence & 0xFFFFFFFF,
            iv=sequence.to_bytes(8, "big"),
            data=bytes.fromhex(payload),
            nh=NEXT_HEADER_UDP,
        )
        sealed = association.crypt_algo.encrypt(
            association,
            association.crypt_algo.pad(plain),
            association.crypt_key,
            16,
            esn_en=True,
            esn=sequence >> 32,
        )
        print(bytes(sealed).hex())


def main():
    match sys.argv[1:]:
        case ["open", keys, capture]:
            open_capture(associations(keys), capture)
        case ["seal", keys]:
            seal(associations(keys))
        case _:
            sys.exit(__doc__)


main()
