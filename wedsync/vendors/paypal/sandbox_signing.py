"""Certificate authority of the stand-in: signs webhooks as PayPal signs them."""

from __future__ import annotations

import base64
import uuid
import zlib
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wedsync.kit.clock import utc_now

#: As PayPal's own certificates are named.
SIGNER_NAME = "messageverificationcerts.sandbox.paypal.com"
CERTIFICATES_PATH = "/v1/notifications/certs"
_LIFE = timedelta(days=30)


@dataclass(frozen=True)
class Signer:
    """A signing key with its certificate and the root above it."""

    key: rsa.RSAPrivateKey
    certificate_pem: bytes
    root_pem: bytes
    certificate_id: str


@cache
def signer() -> Signer:
    """Return this process's signer, made when first needed."""
    root_key, key = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "wedsync sandbox root")])
    root = (
        _builder(root_name, root_name, root_key.public_key(), root_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SIGNER_NAME)])
    certificate = (
        _builder(name, root_name, key.public_key(), root_key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SIGNER_NAME)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    certificate_id = f"CERT-{certificate.serial_number:x}"
    return Signer(key, certificate.public_bytes(encoding), root.public_bytes(encoding), certificate_id)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: rsa.RSAPublicKey, issuer_key: rsa.RSAPublicKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(utc_now() - _LIFE)
        .not_valid_after(utc_now() + _LIFE)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def webhook_headers(body: bytes, webhook_id: str, base_url: str) -> dict[str, str]:
    """Build PayPal's headers over `body` (https://developer.paypal.com/api/rest/webhooks/rest/#verify-the-message)."""
    transmission_id = str(uuid.uuid4())
    stamp = utc_now().strftime("%Y-%m-%dT%H:%M:%SZ")
    message = f"{transmission_id}|{stamp}|{webhook_id}|{zlib.crc32(body)}".encode()
    signature = signer().key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    return {
        "Content-Type": "application/json",
        "PAYPAL-AUTH-ALGO": "SHA256withRSA",
        "PAYPAL-CERT-URL": f"{base_url}{CERTIFICATES_PATH}/{signer().certificate_id}",
        "PAYPAL-TRANSMISSION-ID": transmission_id,
        "PAYPAL-TRANSMISSION-TIME": stamp,
        "PAYPAL-TRANSMISSION-SIG": base64.b64encode(signature).decode(),
    }
