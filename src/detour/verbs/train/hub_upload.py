"""Put a finished run on the hub: the adapter, its model card with pictures, its proof and its settings."""

import glob
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from detour.bases.names import split_name
from detour.errors import ConfigError, HubError, RunError
from detour.evaluation.settings import hub_id, public_settings
from detour.specs import RunSpec, to_toml
from detour.training.resume import read_settings
from detour.training.run_folder import OWN_JSON, read_state
from detour.verbs.progress import Progress, ProgressFn, silent

REPOSITORY = re.compile(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9](?:[\w.-]{0,94}[\w-])?", re.ASCII)

SHOWN = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")
"""Pictures that the card shows."""


class PushResult(BaseModel):
    """Where a run was uploaded, and which files."""

    model_config = ConfigDict(frozen=True)

    url: str
    private: bool
    files: tuple[str, ...]


def check_push(repo: str) -> None:
    """Whether a push to ``repo`` can work, as far as that can be known without asking the hub.

    Raises:
        ConfigError: not OWNER/NAME, or nobody is logged in.
    """
    from huggingface_hub import get_token

    if not REPOSITORY.fullmatch(repo):
        raise ConfigError(f"'{repo}' cannot be a repository of the hub. Write OWNER/NAME, e.g. me/my-style.")
    if get_token() is None:
        raise ConfigError(f"pushing to {repo} needs a login. Run: hf auth login, or set HF_TOKEN.")


def push_run(
    run_folder: Path, repo: str, *, public: bool = False, progress: ProgressFn = silent
) -> PushResult:
    """Upload a finished and proved run in one commit.

    What goes up: the adapter with its card and preview for other programs, README.md with a header that the hub reads,
    the pictures that it shows, proof.json, report.html, and resolved.toml without paths. Never checkpoints, training
    pictures or paths of this machine.

    Args:
        run_folder: of the run.
        repo: ``OWNER/NAME``; made if it is not there.
        public: whether everybody may see a repository that is made here.
        progress: told of the upload.

    Raises:
        ConfigError: no such name, nobody logged in.
        RunError: the run is not finished, or a file of it tells a path of this machine.
        HubError: the hub did not take it; the run is as it was.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    check_push(repo)
    files = gather_files(run_folder)
    progress(Progress(stage="pushing to the hub", note=f"Pushing {len(files)} files to {repo}."))
    api = HfApi()
    try:
        url = api.create_repo(repo, private=not public, exist_ok=True)
        operations = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=io.BytesIO(data))
            for name, data in files.items()
        ]
        api.create_commit(repo, operations, commit_message=f"Add {run_folder.name}, made with detour")
        private = bool(api.repo_info(repo).private)
    except Exception as error:  # the client raises many kinds: offline, refused, full, timed out
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise HubError(
            f"{repo}: could not be pushed ({reason}). The run is whole in {run_folder}; try again with: "
            f"detour push {run_folder} {repo}"
        ) from error
    return PushResult(url=str(url), private=private, files=tuple(files))


def gather_files(run_folder: Path) -> dict[str, bytes]:
    """Name in the repository → content of everything that a push uploads.

    Raises:
        ConfigError: the run left no adapter.
        RunError: the run is not finished and proved, or a file tells a path of this machine.
    """
    spec = read_settings(run_folder)
    refuse_whole_bases(spec)
    wanted = [f"{spec.name}.safetensors", "proof.json", "report.html", "README.md"]
    missing = [name for name in wanted if not (run_folder / name).is_file()]
    if missing:
        raise RunError(
            f"{run_folder}: has no {missing[0]} yet. Finish it first: detour train --resume {run_folder}."
        )
    card = (run_folder / "README.md").read_text(encoding="utf-8")
    pictures = [name for name in SHOWN.findall(card) if _is_inside(run_folder, name)]
    base = str(read_state(run_folder).get("base", spec.base.name))
    words = sorted(
        path.name for path in run_folder.glob(f"{glob.escape(str(spec.name))}-tokens*.safetensors")
    )
    beside = [f"{spec.name}.json", f"{spec.name}.preview.png"]
    shown = [name for name in beside if name not in OWN_JSON and (run_folder / name).is_file()]
    files = {name: (run_folder / name).read_bytes() for name in (*wanted[:3], *shown, *words, *pictures)}
    files["README.md"] = (_header(spec) + card).encode()
    files["resolved.toml"] = to_toml(public_settings(spec, base_identity=base)).encode()
    _refuse_paths(run_folder, spec, files)
    return files


def refuse_whole_bases(spec: RunSpec) -> None:
    """Full fine-tuning leaves a base of gigabytes, for comparison, and no adapter.

    Raises:
        ConfigError: in one line.
    """
    if spec.adapter.method == "full":
        raise ConfigError(
            "method 'full' leaves a whole base and no adapter, and only adapters are pushed. Leave --push-to-hub out, "
            "or train with --method lora."
        )
    if spec.adapter.method == "reference":
        raise ConfigError("method 'reference' leaves an IP-Adapter without a card. Upload its file by hand.")


def _header(spec: RunSpec) -> str:
    """YAML that the hub reads: which base, which words."""
    from huggingface_hub import ModelCardData

    facts: dict[str, Any] = {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
    tags = ["lora", "text-to-image", "stable-diffusion", "diffusers", "detour"]
    if spec.called_by():
        facts["instance_prompt"] = ", ".join(spec.called_by())
    base = hub_id(spec.base.name)
    if base:
        facts |= {"base_model": base, "base_model_relation": "adapter"}
    return f"---\n{ModelCardData(tags=tags, **facts).to_yaml()}\n---\n"


def _is_inside(run_folder: Path, name: str) -> bool:
    path = (run_folder / name).resolve()
    return path.is_file() and path.is_relative_to(run_folder.resolve())


def _refuse_paths(run_folder: Path, spec: RunSpec, files: Mapping[str, bytes]) -> None:
    """The last look before anything leaves: no file names a folder of this machine."""
    sources = [spec.data.source, *(folder.source for folder in spec.data.folders), spec.prior.folder]
    local = [
        Path(name) for name in (*sources, split_name(spec.base.name)[0]) if name and Path(name).is_absolute()
    ]
    private = {str(path).encode() for path in (*local, run_folder.resolve().parent, Path.home())}
    for name, data in files.items():
        for path in private:
            if len(path) > 2 and path in data:
                raise RunError(
                    f"{run_folder / name}: names {path.decode()}, a folder of this machine, so nothing was pushed. "
                    "Take it out, e.g. from the prompts, and prove the run again."
                )
