"""Bases by hub id, through huggingface_hub: its cache, its offline switch, its login."""

from pathlib import Path

from detour.adapters.adapter import DENOISERS, PARTS
from detour.errors import BaseError

TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
"""Folders of a base's tokenizers, in the order of its text encoders."""

FOLDERS = (
    *PARTS,
    "vae",
    *TOKENIZERS,
    "scheduler",
    "safety_checker",
)
CONFIGS = ["model_index.json", "feature_extractor/*.json"] + [
    f"{part}/{pattern}" for part in FOLDERS for pattern in ("*.json", "*.txt", "spiece.model")
]
WEIGHTS = [f"{part}/*.safetensors" for part in FOLDERS]
# Other precisions and EMA doubles stand beside the weights under names of their own.
DOUBLES = ["*.fp16.safetensors", "*.fp16-*.safetensors", "*non_ema*", "*.bf16*.safetensors"]

T5_OF_SD3 = "text_encoder_3/*.safetensors"


def fetch(
    hub_id: str, revision: str | None, *, weights: bool = True, t5: bool = True
) -> tuple[Path, str | None]:
    """The folder of a hub model in the local cache, fetched where needed, and the commit that it is.

    Only the parts that detour reads are fetched: configs, tokenizers and safetensors of one precision (the
    half precision files where there are no others).

    Args:
        hub_id: ``owner/name``.
        revision: branch, tag or commit; ``None`` is the main branch.
        weights: without them only settings and tokenizers are fetched, some 2 MB.
        t5: without it the weights of SD 3's third text encoder, some 10 GB, are not fetched.

    Raises:
        BaseError: not there, not allowed, not reachable, or offline and not in the cache.
    """
    left_out = [] if t5 else [T5_OF_SD3]
    folder = fetch_files(
        hub_id, revision, [*CONFIGS, *WEIGHTS] if weights else CONFIGS, [*DOUBLES, *left_out]
    )
    networks = [folder / part for part in DENOISERS]
    if weights and not any(list(network.glob("*.safetensors")) for network in networks):
        folder = fetch_files(hub_id, revision, [*CONFIGS, *WEIGHTS], ["*non_ema*", *left_out])
    commit = folder.name if folder.parent.name == "snapshots" else revision
    return folder, commit


def fetch_files(
    hub_id: str, revision: str | None, allow: list[str], ignore: list[str], *, what: str = "base"
) -> Path:
    """Some files of a hub model, from the local cache where they are.

    Args:
        hub_id: ``owner/name``.
        revision: branch, tag or commit; ``None`` is the main branch.
        allow: patterns of the files that are wanted.
        ignore: patterns of those that are not.
        what: how messages call the model.

    Raises:
        BaseError: not there, not allowed, not reachable, or offline and not in the cache.
    """
    import huggingface_hub
    from huggingface_hub import constants, errors

    at = f" at revision '{revision}'" if revision else ""
    try:
        folder = huggingface_hub.snapshot_download(
            hub_id, revision=revision, allow_patterns=allow, ignore_patterns=ignore
        )
    except errors.GatedRepoError as error:
        raise BaseError(
            f"{what} '{hub_id}' is gated. Accept its terms on the hub, log in with 'hf auth login' and run "
            "again."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BaseError(f"{what} '{hub_id}' has no revision '{revision}'. Check --revision.") from error
    except errors.RepositoryNotFoundError as error:
        raise BaseError(
            f"{what} '{hub_id}' is neither a folder here nor a model on the hub (or it is private: 'hf auth "
            "login')."
        ) from error
    except (
        errors.HfHubHTTPError,
        errors.LocalEntryNotFoundError,
        errors.HFValidationError,
        OSError,
    ) as error:
        if constants.HF_HUB_OFFLINE:
            raise BaseError(
                f"{what} '{hub_id}'{at} is not in the local cache, and HF_HUB_OFFLINE forbids fetching it. "
                "Fetch it once with the network on, or pass a folder."
            ) from error
        raise BaseError(
            f"{what} '{hub_id}'{at} is neither a folder here nor could it be fetched ({_first_line(error)}). "
            "Check the name and the network, or pass a folder."
        ) from error
    return Path(folder)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
