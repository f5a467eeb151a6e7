"""How a generated video says that it is one: a comment in its metadata, and C2PA credentials."""

import io
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from preprocessing.encode.clip_encoder import encode_clip
from preprocessing.errors import UserError, first_line
from preprocessing.paths import user_path

# IPTC's word for media made by a model.
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


@dataclass(frozen=True)
class CredentialsConfig:
    """Who signs generated videos; nobody by default."""

    # Certificate chain (PEM) of the C2PA content credentials that are put into the video.
    certificate: str | None = None
    # Its private key (PEM).
    private_key: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.private_key is None):
            raise UserError(
                "of certificate and private key, only one is given",
                "give both (--certificate, --private-key) or neither",
            )


def comment() -> str:
    """Return what the metadata of every generated file says."""
    return f"AI-generated: a portrait animated by xnemo {version('xnemo')} ({SOURCE_TYPE})"


class Credentials:
    """Signs videos; a trial at construction shows whether certificate and key are usable.

    Raises:
        UserError: A file is missing, or they do not sign.
    """

    def __init__(self, certificate: str, private_key: str) -> None:
        import c2pa

        texts = []
        for name, given in (("certificate", certificate), ("private key", private_key)):
            try:
                texts.append(user_path(given).read_bytes())
            except OSError as error:
                raise UserError(f"{given} cannot be read as a {name}", "give a PEM file") from error
        trial = encode_clip([np.zeros((64, 64, 3), np.uint8)])
        reason = ""
        # The kind of key decides the algorithm; the one that fits is found by trying.
        for algorithm in c2pa.C2paSigningAlg:
            try:
                info = c2pa.C2paSignerInfo(algorithm, *texts, None)
                self._signer: Any = c2pa.Signer.from_info(info)
                state = _read(io.BytesIO(self.sign(trial)))["validation_state"]
                if state != "Invalid":
                    return
                reason = "the key is not the certificate's"
            except c2pa.C2paError as error:
                reason = reason or first_line(error)
        raise UserError(
            f"{certificate} with {private_key} does not sign: {reason}",
            "give a chain of certificates that C2PA allows, and the first one's key",
        )

    def sign(self, mp4: bytes) -> bytes:
        """Return a video with content credentials."""
        import c2pa

        manifest = {
            "claim_generator_info": [{"name": "xnemo", "version": version("xnemo")}],
            "title": "animated portrait",
            "assertions": [
                {
                    "label": "c2pa.actions",
                    "data": {
                        "actions": [{"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE}]
                    },
                }
            ],
        }
        signed = io.BytesIO()
        c2pa.Builder(manifest).sign(self._signer, "video/mp4", io.BytesIO(mp4), signed)
        return signed.getvalue()


def read_credentials(path: Path) -> str:
    """Return in words what content credentials a video carries; "none" where there are none."""
    try:
        import c2pa
    except ModuleNotFoundError:
        return "not read: c2pa-python is not installed"
    try:
        with path.open("rb") as file:
            found = _read(file)
    except c2pa.C2paError as error:
        return (
            "none" if "ManifestNotFound" in f"{type(error).__name__} {error}" else first_line(error)
        )
    manifest = found["manifests"][found["active_manifest"]]
    signed = manifest.get("signature_info", {})
    who = signed.get("common_name") or signed.get("issuer") or "unknown"
    return f"signed by {who}: {found.get('validation_state', 'unknown').lower()}"


def _read(file: BinaryIO) -> dict[str, Any]:
    import c2pa

    found: dict[str, Any] = json.loads(c2pa.Reader("video/mp4", file).json())
    return found
