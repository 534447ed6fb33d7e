"""Writes others/: files of the packages numpy, safetensors and torch, with every element type that they have.

Each tensor NAME of another type than F32 and F64 has NAME.f32 or NAME.f64 beside it: the same numbers, as
PyTorch converts them.
"""

import pathlib

import numpy
import torch
from numpy.lib import format
from safetensors.torch import save_file

folder = pathlib.Path(__file__).parent / "others"
folder.mkdir(exist_ok=True)
torch.manual_seed(1)

tensors = {}
every = torch.arange(256, dtype=torch.int32).to(torch.uint8)
for name in "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu":
    tensors[name] = every.clone().view(getattr(torch, name))
# Each power, both signs, and mantissas with one bit and with all.
f16 = [s << 15 | e << 10 | m for s in (0, 1) for e in range(32) for m in (0, 1, 0x200, 0x3FF)]
bf16 = [s << 15 | e << 7 | m for s in (0, 1) for e in range(0, 256, 3) for m in (0, 1, 0x40, 0x7F)]
tensors["float16"] = torch.tensor(f16, dtype=torch.int32).to(torch.uint16).view(torch.float16)
tensors["bfloat16"] = torch.tensor(bf16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
for name in "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64":
    info = torch.iinfo(getattr(torch, name))
    values = [0, 1, 2, 100, max(info.min, -(2**24)), min(info.max, 2**24)]
    tensors[name] = torch.tensor(values, dtype=getattr(torch, name)).reshape(2, 3)
tensors["bool"] = torch.tensor([True, False, True])
for name, tensor in list(tensors.items()):
    tensors[name + ".f32"] = tensor.to(torch.float32)
    tensors[name + ".f64"] = tensor.to(torch.float32).to(torch.float64)
tensors["complex64"] = torch.tensor([1 + 2j])
tensors["too_large"] = torch.tensor([2**24, 2**24 + 1])
save_file(tensors, folder / "types.safetensors")

net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
for _ in range(7):
    net(torch.randn(8, 3))
save_file(net.state_dict(), folder / "batch_norm.safetensors")

# What NumPy writes of one matrix, and of shapes of every kind.
w = numpy.arange(6, dtype=numpy.float32).reshape(2, 3)
for name in "<f2 >f2 <f4 >f4 <f8 >f8 |i1 <i2 >i2 <i4 >i4 <i8 >i8 |u1 <u2 >u2 <u4 >u4 <u8 >u8".split():
    file = name.replace("<", "little_").replace(">", "big_").replace("|", "")
    numpy.save(folder / f"{file}.npy", w.astype(name))
    numpy.save(folder / f"{file}_fortran.npy", numpy.asfortranarray(w.astype(name)))
numpy.save(folder / "bool.npy", w > 2)
numpy.save(folder / "scalar.npy", numpy.float32(3))
numpy.save(folder / "one.npy", w.reshape(6))
numpy.save(folder / "empty.npy", numpy.zeros((0, 3), numpy.float32))
cube = numpy.arange(24, dtype=numpy.float64).reshape(2, 3, 4)
numpy.save(folder / "cube_fortran.npy", numpy.asfortranarray(cube))
for major in 1, 2, 3:
    with open(folder / f"version_{major}.npy", "wb") as file:
        format.write_array(file, w, version=(major, 0))
# The elements of these can't be those of a tensor.
numpy.save(folder / "complex.npy", w.astype(numpy.complex64))
numpy.save(folder / "text.npy", numpy.array(["a", "b"]))
numpy.save(folder / "fields.npy", numpy.zeros(2, [("größe", "<f4"), ("b", "<i4")]))
numpy.savez(folder / "stored.npz", w=w, b=w[0])
numpy.savez_compressed(folder / "deflated.npz", w=numpy.tile(w, 50), b=w[0])
