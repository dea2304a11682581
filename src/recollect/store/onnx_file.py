"""Write an ONNX model file with nothing but numpy: the few protobuf messages that a graph of weights and nodes needs.

An ONNX file is one protobuf message (ModelProto). A protobuf message is a row of fields; each field is a key, which is
`field number * 8 + wire type` as a varint, and a value: wire type 0 is a varint (integers), 2 is a length and that many
bytes (text, raw weights, nested messages), 5 is four bytes (a float). The field numbers below are those of onnx.proto.

Source: the ONNX intermediate representation, https://onnx.ai/onnx/repo-docs/IR.html, version 8 of the format.
Cost: the file is as large as its weights; writing copies them once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

# TensorProto.DataType for the numpy types that graphs here use.
_DATA_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10}
_IR_VERSION = 8


class Graph:
    """A graph under construction: add weights and nodes in order of evaluation, then take `to_bytes()`."""

    def __init__(self, opsets: dict[str, int]):
        """`opsets` maps an operator domain ("" is ONNX's own, "com.microsoft" is onnxruntime's) to its version."""
        self._opsets = opsets
        self._body: list[bytes] = []  # encoded fields of GraphProto
        self._num_names = 0

    def weight(self, value: np.ndarray | np.generic) -> str:
        """Add a constant array of any shape and return its name."""
        name = self._name("w")
        value = np.asarray(value, order="C")
        tensor = _packed(1, value.shape) + _int(2, _DATA_TYPES[value.dtype.name]) + _bytes(8, name.encode())
        self._body.append(_bytes(5, tensor + _bytes(9, value.tobytes())))
        return name

    def node(self, op: str, inputs: Sequence[str], domain: str = "", **attributes: Any) -> str:
        """Add an operator with one output and return that output's name.

        An empty input name means an optional input that is left out. Attributes are integers, floats, text, or lists of
        integers.
        """
        return self.nodes(op, inputs, 1, domain, **attributes)[0]

    def nodes(self, op: str, inputs: Sequence[str], num_outputs: int, domain: str = "", **attributes: Any) -> list[str]:
        """Add an operator with several outputs and return their names."""
        names = [self._name("t") for _ in range(num_outputs)]
        message = b"".join(_bytes(1, item.encode()) for item in inputs)
        message += b"".join(_bytes(2, item.encode()) for item in names)
        message += _bytes(3, self._name(op).encode()) + _bytes(4, op.encode())
        message += b"".join(_bytes(5, _attribute(key, value)) for key, value in attributes.items())
        self._body.append(_bytes(1, message + _bytes(7, domain.encode())))
        return names

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> str:
        """Declare an input; a dimension given as text is free, and equal names mean equal sizes."""
        self._body.append(_bytes(11, _value_info(name, dtype, shape)))
        return name

    def output(self, name: str, dtype: str, shape: Sequence[int | str]) -> None:
        """Declare that the value `name` is an output."""
        self._body.append(_bytes(12, _value_info(name, dtype, shape)))

    def to_bytes(self) -> bytes:
        """The whole model file."""
        graph = b"".join(self._body) + _bytes(2, b"graph")
        opsets = b"".join(
            _bytes(8, _bytes(1, domain.encode()) + _int(2, version)) for domain, version in self._opsets.items()
        )
        return _int(1, _IR_VERSION) + _bytes(2, b"recollect") + _bytes(7, graph) + opsets

    def _name(self, prefix: str) -> str:
        self._num_names += 1
        return f"{prefix}{self._num_names}"


def _varint(number: int) -> bytes:
    number &= (1 << 64) - 1  # negative integers are written as 64-bit two's complement
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _int(field: int, number: int) -> bytes:
    return _varint(field << 3) + _varint(number)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _packed(field: int, numbers: Iterable[int]) -> bytes:
    return _bytes(field, b"".join(_varint(int(number)) for number in numbers))


def _attribute(name: str, value: Any) -> bytes:
    """An AttributeProto: the value sits in the field of its type, and field 20 says which type that is."""
    out = _bytes(1, name.encode())
    if isinstance(value, int):
        return out + _int(3, value) + _int(20, 2)
    if isinstance(value, float):
        return out + _varint(2 << 3 | 5) + struct.pack("<f", value) + _int(20, 1)
    if isinstance(value, str):
        return out + _bytes(4, value.encode()) + _int(20, 3)
    return out + b"".join(_int(8, item) for item in value) + _int(20, 7)


def _value_info(name: str, dtype: str, shape: Sequence[int | str]) -> bytes:
    dims = b"".join(_bytes(1, _int(1, dim) if isinstance(dim, int) else _bytes(2, dim.encode())) for dim in shape)
    tensor_type = _int(1, _DATA_TYPES[dtype]) + _bytes(2, dims)
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor_type))
