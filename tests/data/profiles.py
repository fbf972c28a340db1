"""ICC profiles in miniature, written byte by byte from the specification (ICC.1:2004-10)."""

import struct

import numpy as np

ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
"""XYZ of red, green and blue adapted to D50, from the Adobe RGB (1998) specification."""
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
"""As ADOBE_RGB, of IEC 61966-2-1."""
D50 = (0.9642, 1.0, 0.8249)


def linear(values: np.ndarray) -> np.ndarray:
    """SRGB's curve, from values in [0, 1] to light."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def encoded(light: np.ndarray) -> np.ndarray:
    """The inverse of :func:`linear`."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def rgb_profile(primaries: tuple[tuple[float, float, float], ...]) -> bytes:
    """A monitor with these primaries and sRGB's curve."""
    curve = _curve(linear(np.linspace(0, 1, 1024)))
    tags = {f"{name}XYZ": _xyz(xyz) for name, xyz in zip("rgb", primaries, strict=True)}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags | {f"{name}TRC": curve for name in "rgb"})


def grey_profile(gamma: float) -> bytes:
    """Grey whose light is a power of its value."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {"kTRC": _curve(np.linspace(0, 1, 1024) ** gamma)})


def cmyk_profile() -> bytes:
    """A press whose cyan ink is a grey of L* 50, and whose other inks are black."""
    clut = b""
    for corner in range(16):
        cyan, others = corner >> 3, corner & 7
        clut += bytes([0 if others else (128 if cyan else 255), 128, 128])
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + identity * 4 + clut + identity * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {"A2B0": lut})


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: tuple[float, float, float]) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_fixed, values))


def _curve(values: np.ndarray) -> bytes:
    table = np.round(np.asarray(values) * 65535).astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", len(table)) + table.tobytes()


def _profile(kind: bytes, space: bytes, pcs: bytes, tags: dict[str, bytes]) -> bytes:
    text = b"a test\0"
    tags = tags | {
        "wtpt": _xyz(D50),
        "desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78),
        "cprt": b"text" + bytes(4) + text,
    }
    table, data, offset = b"", b"", 132 + 12 * len(tags)
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name.encode() + struct.pack(">II", offset + len(data), len(value))
        data += value
    header = struct.pack(">I4sI", offset + len(data), b"lcms", 0x02400000) + kind + space + pcs
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + b"".join(map(_fixed, D50))
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data
