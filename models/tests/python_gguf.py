"""Reads a Lamplight model with Python's `gguf` package and compares values.

    pip install gguf
    cargo run -p lamplight-models --example write_gguf -- model.gguf
    python models/tests/python_gguf.py model.gguf model.gguf.f32

Prints metadata and tensors. Exits 1 when

- a required key is missing,
- a tensor's stored dimensions do not fit its recorded true shape,
- the package's dequantized values differ in any bit from `f16(scale) * q` computed here from the
  raw blocks,
- padding is not zero,
- or, with a second argument, from the values Lamplight itself reads (little-endian F32, tensors in
  the order of their names, true shapes).
"""

import math
import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

REQUIRED = [
    "general.architecture",
    "general.alignment",
    "lamplight.format_version",
    "lamplight.architecture",
    "lamplight.graph",
    "lamplight.input.mean",
    "lamplight.input.std",
    "lamplight.input.channels",
    "lamplight.classes",
    "lamplight.description_version",
    "lamplight.input.name",
    "lamplight.input.shape",
    "lamplight.input.layout",
    "lamplight.input.dtype",
    "lamplight.output.name",
]


def values_of(tensor):
    """Dequantized rows by the package, checked against the block format itself."""
    if tensor.tensor_type == GGMLQuantizationType.F32:
        return np.asarray(tensor.data, dtype="<f4").reshape(1, -1)
    if tensor.tensor_type != GGMLQuantizationType.Q8_0:
        sys.exit(f"{tensor.name}: unexpected type {tensor.tensor_type.name}")
    theirs = dequantize(tensor.data, tensor.tensor_type)
    blocks = np.frombuffer(tensor.data.tobytes(), dtype=[("d", "<f2"), ("q", "i1", 32)])
    ours = blocks["d"].astype("<f4")[:, None] * blocks["q"].astype("<f4")
    if theirs.astype("<f4").tobytes() != ours.tobytes():
        sys.exit(f"{tensor.name}: dequantized values are not f16(scale) * q")
    return theirs


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    reader = GGUFReader(sys.argv[1])
    missing = [key for key in REQUIRED if key not in reader.fields]
    if missing:
        sys.exit(f"missing keys: {', '.join(missing)}")
    for key, field in reader.fields.items():
        if not key.startswith("lamplight.shape."):
            print(f"{key} = {str(field.contents())[:100]}")
    expected = np.fromfile(sys.argv[2], dtype="<f4") if len(sys.argv) == 3 else None
    at = 0
    for tensor in sorted(reader.tensors, key=lambda t: t.name):
        shape = [int(d) for d in reader.fields[f"lamplight.shape.{tensor.name}"].contents()]
        rows = values_of(tensor)
        quantized = tensor.tensor_type == GGMLQuantizationType.Q8_0
        columns = math.prod(shape[1:]) if quantized else math.prod(shape)
        count = shape[0] if quantized else 1
        width = -(-columns // 32) * 32 if quantized else columns
        if rows.shape != (count, width):
            sys.exit(f"{tensor.name}: stored as {rows.shape}, shape {shape} needs {(count, width)}")
        if np.any(rows[:, columns:]):
            sys.exit(f"{tensor.name}: padding is not zero")
        got = np.ascontiguousarray(rows[:, :columns]).astype("<f4").reshape(-1)
        print(f"{tensor.name}: {tensor.tensor_type.name} {shape}, {tensor.n_bytes} bytes")
        if expected is not None:
            want = expected[at : at + got.size]
            if got.tobytes() != want.tobytes():
                sys.exit(f"{tensor.name}: values differ from Lamplight's")
        at += got.size
    if expected is not None and at != expected.size:
        sys.exit(f"{at} values read, {expected.size} expected")
    print(f"ok: {len(reader.tensors)} tensors, {at} values")


if __name__ == "__main__":
    main()
