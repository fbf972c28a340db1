"""``python -m benchmarks.compose_sdxl FOLDER``: time and memory of composing and resizing SDXL adapters of rank 64.

Two random half-precision adapters are made: every Linear and convolution of the UNet, and the Linear layers of both
text encoders. Each operation runs in a process of its own, whose peak resident memory the operating system tells.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from detour.adapter_files.layer_writer import LayerWriter
from detour.adapters.layers import LoraLayer
from detour.adapters.targets import adaptable_layers
from detour.bases.base import open_base
from detour.bases.families import FAMILIES
from detour.bases.parts import empty_part

RANK = 64
WEIGHTS = (0.8, 0.5)

OPERATIONS: dict[str, dict[str, object]] = {
    "sum, exact": {},
    "sum, rank 64": {"rank": 64},
    "ties, rank 64": {"rank": 64, "method": "ties"},
}


def made(path: Path, *, seed: int) -> Path:
    """Make a random adapter on all of SDXL in fp16, with the decaying spectrum of trained ones."""
    if path.exists():
        return path
    base = open_base("sdxl")
    generator = torch.Generator().manual_seed(seed)
    decay = torch.linspace(0, -3, RANK).exp()
    path.parent.mkdir(parents=True, exist_ok=True)
    with LayerWriter(path, file_format="kohya", family=FAMILIES["sdxl"], dtype="fp16") as writer:
        for part in ("unet", "text_encoder", "text_encoder_2"):
            for one in adaptable_layers(empty_part(part, base.config(part))):
                conv = one.kind == "conv"
                down = 0.02 * torch.randn(
                    RANK, one.in_features, *(one.kernel if conv else ()), generator=generator
                )
                up = 0.02 * torch.randn(one.out_features, RANK, generator=generator) * decay
                up = up[..., None, None] if conv else up
                key = f"{part}.{one.path.removeprefix('text_model.')}"
                writer.add(key, LoraLayer(down=down, up=up, alpha=32.0))
        writer.finish({"detour.family": "sdxl"})
    return path


def measured(name: str, folder: Path) -> dict[str, object]:
    """Measure seconds and peak memory of one operation, in a process of its own."""
    out = subprocess.run(
        [sys.executable, "-m", "benchmarks.compose_sdxl", str(folder), "--only", name],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found: dict[str, object] = json.loads(out.splitlines()[-1])
    return found


def _run(name: str, files: list[Path], folder: Path) -> dict[str, object]:
    from detour.verbs.adapter_tools.composition import compose_adapters
    from detour.verbs.adapter_tools.resizing import resize_adapter

    started = time.perf_counter()
    out = folder / "out.safetensors"
    if name == "resize, energy 0.9":
        resized = resize_adapter(files[0], out=out, energy=0.9, force=True)
        figures = {"kept": resized.kept, "difference": resized.largest_difference}
    else:
        loras = [f"{file}:{weight}" for file, weight in zip(files, WEIGHTS, strict=True)]
        place = None if name == "prediction alone" else out
        result = compose_adapters(loras, out=place, force=True, **OPERATIONS.get(name, {}))  # type: ignore[arg-type]
        done = result.written
        figures = {} if done is None else {"kept": done.kept, "difference": done.largest_difference}
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "operation": name,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_mib": round(used.ru_maxrss / 2**10),
        **figures,
    }


def main() -> None:
    """Print one line for each operation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only")
    chosen = parser.parse_args()
    files = [made(chosen.folder / f"sdxl-{seed}.safetensors", seed=seed) for seed in (1, 2)]
    if chosen.only:
        torch.set_num_threads(1)
        print(json.dumps(_run(chosen.only, files, chosen.folder)))
        return
    for name in ("prediction alone", *OPERATIONS, "resize, energy 0.9"):
        print(measured(name, chosen.folder), flush=True)


if __name__ == "__main__":
    main()
