#!/usr/bin/env python3
"""Reads a checkpoint of version 1 with NumPy and nothing else, as docs/checkpoint-format.md says.

    state = read_checkpoint.read("model.brk")
    state["network"]["fc1.weight"]      # a NumPy array
"""
import struct, sys, zlib
import numpy as np

SECTIONS = {1: "metadata", 2: "metrics", 3: "schedule", 4: "architecture"}

class Bytes:
    """Values one after the other: little-endian (`<`) in the header, big-endian (`>`) in MessagePack."""
    def __init__(self, data):
        self.data, self.at = data, 0
    def take(self, n):
        assert n <= len(self.data) - self.at, "ends too early"
        self.at += n
        return bytes(self.data[self.at - n:self.at])
    def get(self, form):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]
    def sized(self):
        return self.take(self.get("<Q"))

def messagepack(b):
    code = b.get(">B")
    if code < 0x80 or code >= 0xe0:
        return code if code < 0x80 else code - 0x100
    if 0xca <= code <= 0xd3:
        return b.get(">" + "fdBHIQbhiq"[code - 0xca])
    if 0xc4 <= code <= 0xc6:
        return b.take(b.get(">" + "BHI"[code - 0xc4]))
    if code in (0xc0, 0xc2, 0xc3):
        return {0xc0: None, 0xc2: False, 0xc3: True}[code]
    if code < 0xc0:  # small maps, arrays and texts have their length in the code
        kind, n = code >> 4, code & (0x1f if code >= 0xa0 else 0x0f)
    else:
        kind = 10 if code < 0xdc else 9 if code < 0xde else 8
        n = b.get(">" + dict(zip(range(0xd9, 0xe0), "BHIHIHI"))[code])
    if kind == 8:
        return {messagepack(b): messagepack(b) for _ in range(n)}
    return [messagepack(b) for _ in range(n)] if kind == 9 else b.take(n).decode()

def option(h):
    kind = h.get("<B")
    if kind == 4:
        return h.sized().decode()
    return [option(h) for _ in range(h.get("<I"))] if kind == 5 else h.get({1: "<d", 2: "<Q", 3: "<?"}[kind])

def read(path):
    data = memoryview(open(path, "rb").read())
    version, flags, size, payload, header_crc, crc = struct.unpack("<IIQQII", data[8:40])
    assert data[:8] == b"\x8bBRK\r\n\x1a\n" and zlib.crc32(data[:36]) == crc, "not a checkpoint, or damaged"
    assert (version, flags) == (1, 0) and len(data) == 40 + size + payload + 4, "another version or length"
    h, elements = Bytes(data[40:40 + size]), Bytes(data[40 + size:-4])
    assert zlib.crc32(h.data) == header_crc and zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little"), "damaged"
    state = {"epoch": h.get("<Q"), "step": h.get("<Q"), "position": h.get("<Q")}
    state["seed"] = h.get("<Q") if h.get("<?") else None
    state["program"] = h.sized().decode() if h.get("<?") else None
    for _ in range(h.get("<I")):
        section = SECTIONS[h.get("<B")]
        state[section] = messagepack(Bytes(h.sized()))
    has_optimizer = h.get("<?")
    if has_optimizer:
        state["steps"], state["options"] = h.get("<Q"), {}
        for _ in range(h.get("<I")):
            name = h.sized().decode()
            state["options"][name] = option(h)
    for group in ["network", "optimizer"][:1 + has_optimizer]:
        state[group] = {}
        for _ in range(h.get("<I")):
            name, dtype = h.sized().decode(), np.dtype({1: "<f4", 2: "<f8"}[h.get("<B")])
            shape, crc = [h.get("<Q") for _ in range(h.get("<B"))], h.get("<I")
            part = elements.take(dtype.itemsize * int(np.prod(shape, dtype=object)))
            assert zlib.crc32(part) == crc, name + " is damaged"
            state[group][name] = np.frombuffer(part, dtype).reshape(shape)
    assert h.at == size and elements.at == payload, "something is left over"
    return state

if __name__ == "__main__":
    for key, value in read(sys.argv[1]).items():
        print(key, value, sep=": ")
