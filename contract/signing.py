"""Directives are signed with Ed25519: the aggregator holds the private key, agents hold the public one.

The library is imported where it is used: an agent that was given no key does not pay for it.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from contract import report_pb2 as pb
from contract.codec import directive_from_wire, directive_to_wire
from contract.settings import SettingsError
from contract.vocabulary import Directive
from contract.wire import SIGNED_PREFIX

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

PRIVATE_NAME = "directive.key"
PUBLIC_NAME = "directive.pub"

MAX_DIRECTIVE_BYTES = 16_384
"""Eight texts of the longest kind, and room for their UTF-8."""

MAX_KEYS = 16
_END_OF_KEY = b"-----END PUBLIC KEY-----"


class SignatureError(ValueError):
    """Nothing in this message is to be believed; says why."""


class Signer:
    """The aggregator's half."""

    def __init__(self, key: "Ed25519PrivateKey") -> None:
        self._key = key

    def sign(self, directive: Directive) -> pb.SignedDirective:
        """The directive as bytes, and the signature over them."""
        content = directive_to_wire(directive).SerializeToString(deterministic=True)
        return pb.SignedDirective(
            directive=content, signature=self._key.sign(SIGNED_PREFIX + content)
        )


class Verifier:
    """The agent's half: what any one of its keys has signed."""

    def __init__(self, keys: "tuple[Ed25519PublicKey, ...]") -> None:
        self._keys = keys

    def open(self, signed: pb.SignedDirective) -> Directive:
        """The directive, read only after its signature was found to hold.

        Raises:
            SignatureError: no key of ours made the signature, or what was signed is no directive.
        """
        if len(signed.directive) > MAX_DIRECTIVE_BYTES:
            raise SignatureError(
                f"{len(signed.directive)} bytes are more than any directive has ({MAX_DIRECTIVE_BYTES})"
            )
        if not any(_holds(key, signed) for key in self._keys):
            raise SignatureError("the signature was made by no key that this agent was given")
        try:
            return directive_from_wire(pb.Directive.FromString(signed.directive))
        except DecodeError as error:
            raise SignatureError(
                "the signature holds, but what it signs is no directive"
            ) from error


def _holds(key: "Ed25519PublicKey", signed: pb.SignedDirective) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signed.signature, SIGNED_PREFIX + signed.directive)
    except InvalidSignature:
        return False
    return True


def generate(folder: Path) -> tuple[Path, Path]:
    """Make a new pair of keys.

    Args:
        folder: where to; made where it is missing.

    Returns:
        The private key's file, which only its owner can read, and the public key's.

    Raises:
        SettingsError: a key is there already, or the folder cannot be written.
    """
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private, public = folder / PRIVATE_NAME, folder / PUBLIC_NAME
    for path in (private, public):
        if path.exists():
            raise SettingsError(
                f"{path} exists and is not written over: move it away first, or name another folder"
            )
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    told = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(private, secret, mode=0o600)
        _write(public, told, mode=0o644)
    except OSError as error:
        raise SettingsError(f"{folder}: no key can be written here: {error.strerror}") from error
    return private, public


def load_signer(path: Path | str) -> Signer:
    """The aggregator's half from its file.

    Raises:
        SettingsError: naming the file and the remedy.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = _read(path)
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as error:  # TypeError: it is encrypted
        raise SettingsError(
            f"{path} holds no unencrypted private key in PEM form: use the {PRIVATE_NAME} that "
            "`fleetmedic-aggregator keygen --out DIR` writes"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError(
            f"{path} holds a key of another kind than Ed25519: make one with "
            "`fleetmedic-aggregator keygen --out DIR`"
        )
    return Signer(key)


def load_verifier(path: Path | str) -> Verifier:
    """The agent's half from its file; several keys one after the other are all believed.

    Raises:
        SettingsError: naming the file and the remedy.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content = _read(path)
    if b"PRIVATE KEY" in content:
        raise SettingsError(
            f"{path} holds a private key, which no agent may have: give it {PUBLIC_NAME}, and make "
            "a new pair, since this one was spread"
        )
    blocks = [part + _END_OF_KEY for part in content.split(_END_OF_KEY)[:-1]]
    if not 0 < len(blocks) <= MAX_KEYS:
        raise SettingsError(
            f"{path} holds {len(blocks)} public keys in PEM form, and 1 to {MAX_KEYS} can be used: give it the "
            f"{PUBLIC_NAME} that `fleetmedic-aggregator keygen --out DIR` writes"
        )
    keys = []
    for number, block in enumerate(blocks, start=1):
        try:
            key = load_pem_public_key(block)
        except ValueError as error:
            raise SettingsError(
                f"{path}: key {number} is damaged: give it {PUBLIC_NAME} again"
            ) from error
        if not isinstance(key, Ed25519PublicKey):
            raise SettingsError(
                f"{path}: key {number} is of another kind than Ed25519: make one with "
                "`fleetmedic-aggregator keygen --out DIR`"
            )
        keys.append(key)
    return Verifier(tuple(keys))


def _read(path: Path | str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read: {error.strerror}; name the key's file, and mount it where it is missing"
        ) from error


def _write(path: Path, content: bytes, *, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
        file.write(content)
