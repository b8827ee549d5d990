#!/usr/bin/env python3
"""Lays out CIFAR-10 records as a folder per class of PNG files, by other means than Lamplight's.

    python3 .ci/photos.py BATCH.bin[.gz] FIRST COUNT FOLDER
"""
import gzip
import pathlib
import struct
import sys
import zlib

NAMES = "airplane automobile bird cat deer dog frog horse ship truck".split()
SIDE = 32
PLANE = SIDE * SIDE


def png(planes: bytes) -> bytes:
    rows = bytearray()
    for y in range(SIDE):
        rows.append(0)  # no filter
        for x in range(SIDE):
            at = y * SIDE + x
            rows += bytes((planes[at], planes[PLANE + at], planes[2 * PLANE + at]))

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def main() -> None:
    batch, first, count, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    with (gzip.open if batch.endswith(".gz") else open)(batch, "rb") as file:
        records = file.read()
    size = 1 + 3 * PLANE
    for number in range(first, first + count):
        record = records[number * size : (number + 1) * size]
        into = pathlib.Path(folder, NAMES[record[0]])
        into.mkdir(parents=True, exist_ok=True)
        (into / f"{number:05}.png").write_bytes(png(record[1:]))


main()
