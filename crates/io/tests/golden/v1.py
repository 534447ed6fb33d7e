#!/usr/bin/env python3
"""Writes v1.brk from docs/checkpoint-format.md, with nothing but Python's standard library.

    python3 v1.py > v1.brk

The file is not to be written again: version 1 stays what it is.
"""

import struct
import sys
from zlib import crc32

NAN, INF, F32_MAX = 0x7FC01234, 0x7F800000, 0x7F7FFFFF


def f32(*values):
    """Little-endian elements; an int is taken as the bits of one."""
    return b"".join(struct.pack("<I" if isinstance(v, int) else "<f", v) for v in values)


NETWORK = [
    ("encoder.fc1.weight", [2, 3], f32(0.1, -0.2, 0.3, 1, F32_MAX, -0.0)),  # 1 as bits: the smallest number, 1e-45
    ("encoder.fc1.bias", [2], f32(NAN, INF)),
    ("scale", [], f32(0.125)),
    ("none", [2, 0], b""),
]
OPTIMIZER = [
    ("encoder.fc1.weight.velocity", [2, 3], f32(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)),
    ("encoder.fc1.bias.velocity", [2], f32(-1.0, -2.0)),
]


def group(tensors):
    out = struct.pack("<I", len(tensors))
    for path, sizes, elements in tensors:
        text = path.encode()
        out += struct.pack("<Q", len(text)) + text + struct.pack("<BB", 1, len(sizes))
        out += struct.pack(f"<{len(sizes)}Q", *sizes) + struct.pack("<I", crc32(elements))
    return out


# MessagePack, whose numbers are big-endian: a map of four; fixstr, float 64, an array of two float 32, nil.
def text(value):
    return bytes([0xA0 | len(value)]) + value.encode()


METADATA = (
    b"\x84"
    + text("name") + text("Ziffern")
    + text("accuracy") + b"\xcb" + struct.pack(">d", 0.1 + 0.2)
    + text("learning_rates") + b"\x92" + b"\xca" + struct.pack(">f", 0.1) + b"\xca" + struct.pack(">f", 0.01)
    + text("best") + b"\xc0"
)

def sized(content):
    return struct.pack("<Q", len(content)) + content


header = struct.pack("<QQQ", 3, 5625, 40_000)  # epoch, step, position
header += b"\x01" + struct.pack("<Q", 0x5EED)  # seed
header += b"\x01" + sized(b"ziffern 0.3")  # program
header += struct.pack("<I", 3)  # sections: metadata, metrics (an array of two float 64), schedule
header += b"\x01" + sized(METADATA)
header += b"\x02" + sized(b"\x92\xcb" + struct.pack(">d", 2.25) + b"\xcb" + struct.pack(">d", 0.75))
header += b"\x03" + sized(text("cosine"))
header += b"\x01" + struct.pack("<Q", 1875)  # the optimizer's steps
header += struct.pack("<I", 6)  # its options: two numbers, a flag, a whole number, a word, a list with a list in it
header += sized(b"learning_rate") + b"\x01" + struct.pack("<d", 0.1)
header += sized(b"momentum") + b"\x01" + struct.pack("<d", 0.9)
header += sized(b"nesterov") + b"\x03\x00"
header += sized(b"warmup") + b"\x02" + struct.pack("<Q", 2**64 - 1)
header += sized(b"mode") + b"\x04" + sized("größer".encode())
header += sized(b"milestones") + b"\x05" + struct.pack("<I", 2)
header += b"\x02" + struct.pack("<Q", 30) + b"\x05" + struct.pack("<I", 1) + b"\x01" + struct.pack("<d", -0.5)
header += group(NETWORK)
header += group(OPTIMIZER)
payload = b"".join(elements for _, _, elements in NETWORK + OPTIMIZER)

out = b"\x8bBRK\r\n\x1a\n" + struct.pack("<IIQQI", 1, 0, len(header), len(payload), crc32(header))
out += struct.pack("<I", crc32(out))
out += header + payload
out += struct.pack("<I", crc32(out))
sys.stdout.buffer.write(out)
