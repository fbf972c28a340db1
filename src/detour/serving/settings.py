"""Settings of ``detour serve``, from a TOML file and flags."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from detour.specs.run import Dtype
from detour.specs.sources import parse, parse_assignments, read_toml, set_dotted
from detour.specs.strict import Auto, Positive, PositiveInt, Spec

FolderPath = Annotated[Path, Field(strict=False)]
"""Path of a file or folder, given as text in a TOML file."""


class LimitsSpec(Spec):
    """Limits of one request and of the whole queue."""

    max_body_bytes: PositiveInt = 1 << 20
    """Bytes of a request's body; ``png-info`` has a limit of its own."""
    max_png_bytes: PositiveInt = 16 << 20
    """Bytes of the body of ``png-info``."""
    max_json_depth: PositiveInt = 16
    """Nesting of lists and objects in a body."""
    body_timeout_s: Positive = 15.0
    """Seconds in which a body must have arrived."""
    max_prompt_chars: PositiveInt = 4000
    """Characters of a prompt or of a negative prompt."""
    max_pictures: PositiveInt = 16
    """Pictures of one job."""
    max_adapters: PositiveInt = 8
    """Adapters of one job."""
    max_steps: PositiveInt = 150
    """Denoising steps of a picture."""
    max_pixels: PositiveInt | Auto = "auto"
    """Width times height of a picture; ``auto`` is four times the base's own size, and 512 x 512 at least."""
    max_work: Positive = 20_000.0
    """Largest sum of work that waits or runs: pictures x steps x rows x area, the base's own size being 1."""
    max_work_of_key: Positive | Auto = "auto"
    """Largest sum of work of one key; ``auto`` is half of ``max_work``, so that no key can fill the queue."""
    max_streams_of_key: PositiveInt = 64
    """Largest number of event streams and waiting connections of one key."""


class KeepingSpec(Spec):
    """Retention of pictures and jobs, by age and size."""

    picture_s: Positive = 24 * 3600.0
    """Seconds for which a finished picture can be fetched; its file is deleted afterwards."""
    job_s: Positive = 7 * 24 * 3600.0
    """Seconds for which a finished job can be asked about."""
    max_bytes: PositiveInt | Auto = "auto"
    """Bytes of all pictures; beyond it the oldest are deleted. ``auto`` is 2 GiB less a byte."""


class ReferencesSpec(Spec):
    """Reference pictures of requests, which an IP-Adapter shows to the network; without this table there are none."""

    adapter: FolderPath | None = None
    """IP-Adapter file; without one, the base's own."""
    encoder: FolderPath | None = None
    """Folder of the image encoder; without one, that beside the IP-Adapter or the base's own."""
    max_pictures: PositiveInt = 4
    """Reference pictures of one job."""
    max_bytes: PositiveInt = 4 << 20
    """Bytes of the file of a reference picture."""
    max_pixels: PositiveInt = 4_000_000
    """Width times height of a reference picture."""
    max_body_bytes: PositiveInt = 24 << 20
    """Bytes of a request's body that may hold reference pictures as base64."""


class StartsSpec(Spec):
    """Pictures that requests begin with instead of noise, and their masks."""

    enabled: bool = True
    """Whether requests may begin with a picture."""
    max_bytes: PositiveInt = 4 << 20
    """Bytes of the file of a start picture, and of its mask."""
    max_pixels: PositiveInt = 4_000_000
    """Width times height of a start picture."""
    max_body_bytes: PositiveInt = 12 << 20
    """Bytes of a request's body that may hold a start picture."""


class ProvenanceSpec(Spec):
    """Certificate and invisible mark that tell where pictures come from."""

    mark: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Key of an invisible mark in every picture; whoever knows it can find and remove the mark. None by default."""

    c2pa_cert: FolderPath | None = None
    """PEM file of the certificate, with its chain, for signed C2PA manifests (extra ``provenance``)."""
    c2pa_key: FolderPath | None = None
    """PEM file of the certificate's key."""


class ServeSpec(Spec):
    """All settings of one ``detour serve`` call."""

    base: str = "pocket"
    """Base by name, folder, file or hub id, as for ``detour generate``."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    adapters: FolderPath | None = None
    """Folder of adapters that requests name; scanned every second."""
    state: FolderPath = Path("serve-state")
    """Folder of the queue, the keys and the pictures."""
    host: str = "127.0.0.1"
    """Address to listen at; beyond loopback every request needs a key."""
    port: Annotated[int, Field(ge=0, lt=65536)] = 8188
    """Port to listen at; 0 takes a free one."""
    allow_hosts: tuple[str, ...] = ()
    """Further names by which clients may call this server."""
    allow_origins: tuple[str, ...] = ()
    """Web origins whose pages may call this server, e.g. ``https://studio.example``."""
    require_key: bool = False
    """Ask for a key on loopback too."""
    device: Literal["cuda", "mps", "cpu"] | Auto = "auto"
    """Device that pictures are drawn on."""
    dtype: Dtype | Auto = "auto"
    """``auto``: fp32 on cpu and mps, fp16 on cuda."""
    threads: PositiveInt | Auto = "auto"
    """CPU threads that draw; another number may change pixels in the last digit."""
    stop_s: Positive = 60.0
    """Seconds that running pictures get to finish when the server stops; the others stay in the queue."""
    policy: FolderPath | None = None
    """Safety policy (docs/safety.md): what is refused, changed or held for a person."""
    references: ReferencesSpec | None = None
    starts: StartsSpec = StartsSpec()
    limits: LimitsSpec = LimitsSpec()
    keeping: KeepingSpec = KeepingSpec()
    provenance: ProvenanceSpec = ProvenanceSpec()


def load_serve_spec(
    config: Path | None, flags: Mapping[str, Any], assignments: Iterable[str] = ()
) -> ServeSpec:
    """Build the settings from their sources, later ones winning.

    Args:
        config: a TOML file; paths in it are looked for beside the file.
        flags: key → value.
        assignments: ``limits.max_steps=50`` and the like.

    Raises:
        ConfigError: unreadable TOML, an unknown key (with the nearest name), or a value out of range.
    """
    values: dict[str, Any] = read_toml(config) if config else {}
    for name in ("adapters", "state", "policy"):
        if config is not None and isinstance(values.get(name), str):
            values[name] = config.parent / values[name]
    for table, names in (("provenance", ("c2pa_cert", "c2pa_key")), ("references", ("adapter", "encoder"))):
        found = values.get(table)
        for name in names:
            if config is not None and isinstance(found, dict) and isinstance(found.get(name), str):
                found[name] = config.parent / found[name]
    values |= flags
    for key, value in parse_assignments(assignments).items():
        set_dotted(values, key, value)
    return parse(ServeSpec, values, where=str(config) if config else "")
