"""Only what the aggregator's key signed is believed, and only as it was signed."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import report_pb2 as pb
from contract.codec import directive_to_wire
from contract.settings import SettingsError
from contract.signing import (
    MAX_DIRECTIVE_BYTES,
    SignatureError,
    Signer,
    Verifier,
    generate,
    load_signer,
    load_verifier,
)
from contract.vocabulary import Directive
from contract.wire import SIGNED_PREFIX
from tests.support import START

DIRECTIVE = Directive(
    id="n1-1-2",
    kind="reboot-node",
    node="n1",
    subject="",
    code="xid-79",
    issued_seconds=START,
    expires_seconds=START + 120,
    boot_id="b1",
    reason="xid-79 (incident n1-1)",
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return generate(tmp_path_factory.mktemp("keys") / "deep")


@pytest.fixture(scope="module")
def signer(keys: tuple[Path, Path]) -> Signer:
    return load_signer(keys[0])


@pytest.fixture(scope="module")
def verifier(keys: tuple[Path, Path]) -> Verifier:
    return load_verifier(keys[1])


def test_what_was_signed_is_read_as_it_was_written(signer: Signer, verifier: Verifier) -> None:
    assert verifier.open(signer.sign(DIRECTIVE)) == DIRECTIVE


@given(place=st.integers(min_value=0), bit=st.integers(0, 7))
def test_no_bit_may_be_changed(signer: Signer, verifier: Verifier, place: int, bit: int) -> None:
    signed = signer.sign(DIRECTIVE)
    whole = bytearray(signed.directive + signed.signature)
    whole[place % len(whole)] ^= 1 << bit
    cut = len(signed.directive)
    changed = pb.SignedDirective(directive=bytes(whole[:cut]), signature=bytes(whole[cut:]))
    with pytest.raises(SignatureError, match="no key"):
        verifier.open(changed)


@pytest.mark.parametrize("signature", [b"", b"x" * 64, b"x" * 1000])
def test_no_signature_is_none(verifier: Verifier, signature: bytes) -> None:
    content = directive_to_wire(DIRECTIVE).SerializeToString()
    with pytest.raises(SignatureError, match="no key"):
        verifier.open(pb.SignedDirective(directive=content, signature=signature))


def test_a_signature_over_the_bytes_alone_is_one_of_something_else(
    keys: tuple[Path, Path], verifier: Verifier
) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(keys[0].read_bytes(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    content = directive_to_wire(DIRECTIVE).SerializeToString()
    with pytest.raises(SignatureError, match="no key"):
        verifier.open(pb.SignedDirective(directive=content, signature=key.sign(content)))
    garbage = b"\xff\xff\xff"
    signature = key.sign(SIGNED_PREFIX + garbage)
    with pytest.raises(SignatureError, match="no directive"):
        verifier.open(pb.SignedDirective(directive=garbage, signature=signature))


def test_more_than_any_directive_is_not_even_looked_at(verifier: Verifier) -> None:
    with pytest.raises(SignatureError, match="more than any directive"):
        verifier.open(pb.SignedDirective(directive=b"x" * (MAX_DIRECTIVE_BYTES + 1)))


def test_two_keys_in_one_file_are_both_believed_while_one_takes_the_others_place(
    tmp_path: Path, signer: Signer, keys: tuple[Path, Path]
) -> None:
    new_private, new_public = generate(tmp_path / "new")
    both = tmp_path / "both.pub"
    both.write_bytes(b"# old\n" + keys[1].read_bytes() + b"\n# new\n" + new_public.read_bytes())
    verifier = load_verifier(both)
    for each in (signer, load_signer(new_private)):
        assert verifier.open(each.sign(DIRECTIVE)) == DIRECTIVE
    with pytest.raises(SignatureError):
        load_verifier(new_public).open(signer.sign(DIRECTIVE))


def test_the_private_key_is_for_its_owner_alone_and_never_written_over(tmp_path: Path) -> None:
    private, public = generate(tmp_path)
    assert (private.name, public.name) == ("directive.key", "directive.pub")
    assert private.stat().st_mode & 0o777 == 0o600
    before = private.read_bytes()
    with pytest.raises(SettingsError, match=r"directive\.key exists"):
        generate(tmp_path)
    private.rename(tmp_path / "old.key")
    with pytest.raises(SettingsError, match=r"directive\.pub exists"):
        generate(tmp_path)
    assert (tmp_path / "old.key").read_bytes() == before


def test_files_that_hold_no_key_are_named_with_what_to_do(
    tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    other = X25519PrivateKey.generate()
    files = {
        "missing": None,
        "empty": b"",
        "words": b"no key here",
        "damaged": b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        "other.pub": other.public_key().public_bytes(
            form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo
        ),
        "other.key": other.private_bytes(
            form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()
        ),
    }
    for name, content in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        for load in (load_signer, load_verifier):
            with pytest.raises(SettingsError, match=str(tmp_path / name)) as raised:
                load(tmp_path / name)
            assert b"AAAA" not in str(raised.value).encode()
    with pytest.raises(SettingsError, match="a private key, which no agent may have"):
        load_verifier(keys[0])
    with pytest.raises(SettingsError, match="no unencrypted private key"):
        load_signer(keys[1])
