"""Videos signed by a certificate made here."""

import datetime

import numpy as np
import pytest

from pipelines.animate.credentials import Credentials, comment, read_credentials
from preprocessing.encode.clip_encoder import encode_clip
from preprocessing.errors import UserError
from xnemo.animation.driving_video import DrivingVideo

pytest.importorskip("c2pa")
x509 = pytest.importorskip("cryptography.x509")


def certificate(folder, kind):
    """Write a chain of two certificates and the key of the first."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def new_key():
        if kind == "rsa":
            return rsa.generate_private_key(65537, 2048)
        return ec.generate_private_key(ec.SECP256R1())

    def name(text):
        parts = ((NameOID.ORGANIZATION_NAME, "Test"), (NameOID.COMMON_NAME, text))
        return x509.Name([x509.NameAttribute(*part) for part in parts])

    root, own = new_key(), new_key()
    now = datetime.datetime.now(datetime.UTC)
    chain = []
    for key, subject, is_root in ((own, "A signer", False), (root, "A root", True)):
        usage = dict.fromkeys(
            ("key_encipherment", "data_encipherment", "key_agreement", "content_commitment",
             "encipher_only", "decipher_only"), False
        )  # fmt: skip
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("A root"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=9))
            .add_extension(x509.BasicConstraints(is_root, None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=not is_root, key_cert_sign=is_root, crl_sign=is_root, **usage
                ),
                critical=True,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        )
        if not is_root:
            purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(purpose, critical=False)
        chain.append(builder.sign(root, hashes.SHA256()).public_bytes(form.Encoding.PEM))
    (folder / "chain.pem").write_bytes(b"".join(chain))
    for file, key in (("own.key", own), ("other.key", new_key())):
        plain = form.NoEncryption()
        pem = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, plain)
        (folder / file).write_bytes(pem)


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_a_signed_video_plays_and_says_who_signed_it(tmp_path, kind):
    certificate(tmp_path, kind)
    credentials = Credentials(str(tmp_path / "chain.pem"), str(tmp_path / "own.key"))
    frames = [np.full((64, 64, 3), 50 * i, np.uint8) for i in range(4)]
    path = tmp_path / "x.mp4"
    path.write_bytes(credentials.sign(encode_clip(frames, comment=comment())))
    assert read_credentials(path) == "signed by A signer: valid"
    assert len(list(DrivingVideo(path))) == 4
    # One changed pixel is noticed.
    content = bytearray(path.read_bytes())
    content[content.index(b"mdat") + 40] ^= 1
    path.write_bytes(content)
    assert read_credentials(path) == "signed by A signer: invalid"


def test_another_key_is_refused(tmp_path):
    certificate(tmp_path, "ec")
    with pytest.raises(UserError, match="does not sign"):
        Credentials(str(tmp_path / "chain.pem"), str(tmp_path / "other.key"))
