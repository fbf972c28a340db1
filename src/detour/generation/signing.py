"""C2PA manifests: who drew a picture with what, signed with the operator's certificate, and read again.

Needs the extra ``provenance`` (c2pa-python, cryptography). Nothing is asked of a time-stamp server or of any other one.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict

from detour import __version__
from detour.errors import ConfigError, DataError, MissingExtra
from detour.files import read_text
from detour.generation.png import PictureMetadata

DRAWN = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
BEGUN_FROM = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's words for a picture that a model made, and for one that began as another picture."""
ASSERTION = "org.detour.picture"
OFFLINE: dict[str, Any] = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}
MAX_PEM_BYTES = 1 << 20
CHUNK = b"caBX"
"""PNG chunk that holds a manifest (C2PA 2.1, annex A)."""


class SignatureReport(BaseModel):
    """What C2PA's own reader says of the manifest in a file.

    Attributes:
        state: ``trusted`` (valid, and the certificate leads to a named authority), ``valid`` (the file is as it was
            signed; whose certificate it is, nobody vouches for), ``invalid`` (the file or the manifest was changed), or
            ``unread`` (there is a manifest, and the extra that reads it is not installed).
        signer: common name of the certificate.
        organisation: of the certificate.
        software: that made the manifest.
        problems: codes of what is wrong; ``signingCredential.untrusted`` where nobody vouches for the certificate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: Literal["trusted", "valid", "invalid", "unread"]
    signer: str = ""
    organisation: str = ""
    software: str = ""
    problems: tuple[str, ...] = ()


class PictureSigner:
    """Signs finished PNG files with one certificate and key; safe from one thread at a time."""

    def __init__(self, certificates: str, key: str, *, where: str) -> None:
        """Take a certificate chain and its key, and sign a picture to see that they can.

        Args:
            certificates: PEM, the signer's own first, then those that signed it.
            key: PEM, not encrypted.
            where: named in errors.

        Raises:
            ConfigError: they cannot sign: no PEM, self-signed, expired, or of another purpose.
            MissingExtra: c2pa-python is not installed.
        """
        self._c2pa, self._where = _library(), where
        self._context = self._c2pa.Context.from_dict(OFFLINE)
        try:
            self._signer = self._c2pa.Signer.from_info(
                self._c2pa.C2paSignerInfo(
                    alg=_algorithm(key, where),
                    sign_cert=certificates.encode(),
                    private_key=key.encode(),
                    ta_url=None,
                )
            )
        except self._c2pa.C2paError as error:
            raise self._cannot(error) from error
        probe = io.BytesIO()
        Image.new("RGB", (1, 1)).save(probe, format="PNG")
        self._signed(probe.getvalue(), DRAWN, {})

    @classmethod
    def open(cls, certificate: Path, key: Path) -> PictureSigner:
        """Read a certificate chain and its key from PEM files.

        Raises:
            ConfigError: a file cannot be read, or they cannot sign.
            MissingExtra: c2pa-python is not installed.
        """
        pems = [read_text(path, max_bytes=MAX_PEM_BYTES, error=ConfigError) for path in (certificate, key)]
        return cls(pems[0], pems[1], where=str(certificate))

    def sign(self, png: bytes, metadata: PictureMetadata) -> bytes:
        """Put a signed manifest into the bytes of a PNG file; the pixels stay.

        Args:
            png: the finished file, with its text.
            metadata: of the picture, which the manifest holds too.

        Raises:
            ConfigError: the certificate has expired meanwhile.
        """
        source = DRAWN if metadata.start is None else BEGUN_FROM
        return self._signed(png, source, metadata.model_dump(mode="json"))

    def _signed(self, png: bytes, source: str, facts: dict[str, Any]) -> bytes:
        agent = {"name": "detour", "version": __version__}
        created = {"action": "c2pa.created", "digitalSourceType": source, "softwareAgent": agent}
        manifest = {
            "claim_generator_info": [agent],
            "format": "image/png",
            "assertions": [
                {"label": "c2pa.actions", "data": {"actions": [created]}},
                {"label": ASSERTION, "data": facts},
            ],
        }
        out = io.BytesIO()
        try:
            builder = self._c2pa.Builder(json.dumps(manifest), context=self._context)
            builder.sign(self._signer, "image/png", io.BytesIO(png), out)
        except self._c2pa.C2paError as error:
            raise self._cannot(error) from error
        return out.getvalue()

    def _cannot(self, error: Exception) -> ConfigError:
        said = str(error).strip().splitlines()[0][:200]
        return ConfigError(
            f"{self._where}: cannot sign pictures ({said}). Use a certificate for signing that an authority issued, "
            "with its chain behind it, and its own key."
        )


def open_signer(certificate: Path | None, key: Path | None) -> PictureSigner | None:
    """The signer of two settings that belong together; ``None`` where both are left out.

    Raises:
        ConfigError: one without the other, or they cannot sign.
        MissingExtra: c2pa-python is not installed.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ConfigError("a certificate and its key belong together: pass --c2pa-cert and --c2pa-key.")
    return PictureSigner.open(certificate.expanduser(), key.expanduser())


def read_manifest(png: bytes, *, trust: str | None = None) -> SignatureReport | None:
    """Let C2PA's reader check the manifest of a file; ``None`` where the file has none.

    Args:
        png: the whole file.
        trust: PEM of the authorities whose certificates count; ``None``: of none.

    Raises:
        DataError: what is there is no manifest.
    """
    if CHUNK not in png:
        return None
    try:
        c2pa = _library()
    except MissingExtra:
        return SignatureReport(state="unread")
    settings = dict(OFFLINE)
    if trust is not None:
        settings["trust"] = {"trust_anchors": trust}
    try:
        reader = c2pa.Reader("image/png", io.BytesIO(png), context=c2pa.Context.from_dict(settings))
        facts, state = json.loads(reader.json()), str(reader.get_validation_state()).lower()
    except c2pa.C2paError.ManifestNotFound:
        return None
    except c2pa.C2paError as error:
        raise DataError(f"its C2PA manifest cannot be read ({str(error)[:200]}).") from error
    active = facts["manifests"][facts["active_manifest"]]
    signature = active.get("signature_info") or {}
    generator = (active.get("claim_generator_info") or [{}])[0]
    return SignatureReport(
        state="trusted" if state == "trusted" else "valid" if state == "valid" else "invalid",
        signer=signature.get("common_name") or "",
        organisation=signature.get("issuer") or "",
        software=f"{generator.get('name', '')} {generator.get('version', '')}".strip(),
        problems=tuple(sorted({one["code"] for one in facts.get("validation_status") or ()})),
    )


def _algorithm(key: str, where: str) -> str:
    """C2PA's name of the signature that a key makes.

    Raises:
        ConfigError: no key in PEM, an encrypted one, or one of a kind that C2PA does not know.
    """
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        loaded = load_pem_private_key(key.encode(), password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{where}: its key cannot be read ({error}). Write it as PEM without a password."
        ) from error
    if isinstance(loaded, ec.EllipticCurvePrivateKey):
        found = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}.get(loaded.curve.name)
        if found is not None:
            return found
    if isinstance(loaded, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(loaded, rsa.RSAPrivateKey):
        return "ps256"
    raise ConfigError(
        f"{where}: C2PA knows no signature of this kind of key. Use ECDSA on P-256, Ed25519 or RSA."
    )


def _library() -> Any:
    try:
        import c2pa
        import cryptography  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            "'c2pa-python' is needed for signed manifests: pip install 'detour-lora[provenance]'."
        ) from error
    return c2pa
