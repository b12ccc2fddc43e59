"""Detached signatures of folders, as the OpenSSF's model signing makes them: a bundle with the SHA-256 of every file,
signed with an elliptic key. `model_signing verify key FOLDER --signature FOLDER/model.sig --public_key PUB.pem` reads
them, and what it signs is read here.

The library is an extra, and is imported when a signature is asked for.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from quantkit.errors import InputError, UsageError
from quantkit.extras import require_installed
from quantkit.quality.checks.base import Check
from quantkit.storage import hash_file, written_by
from quantkit.untrusted import listed, parse_json_object, read_bounded, shown

SIGNATURE = "model.sig"
CURVES = ("secp256r1", "secp384r1", "secp521r1")  # those of the specification
MAX_KEY, MAX_SIGNATURE, MAX_VALUES = 1 << 16, 64 << 20, 1 << 20
PRIVATE = b"PRIVATE KEY-----"
# What the library raises of bundles that are none, besides ValueError.
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError)
REFUSED = "do not use these files; ask whoever signed them for the key and the files that belong together"


def require_signer() -> None:
    """Raise UnsupportedError where the library is not installed."""
    require_installed("a signature", ("model_signing", "OpenSSL"), key="sign")


def is_encrypted(key: Path) -> bool:
    """Whether a private key has a password. Raises InputError where it cannot be read."""
    data = read_bounded(key, MAX_KEY)
    return b"ENCRYPTED PRIVATE KEY" in data or b"Proc-Type: 4,ENCRYPTED" in data


def require_key(key: Path, password: bytes | None) -> None:
    """Raise, before any work, what keeps a folder from being signed with a key: UnsupportedError without the library,
    InputError for what is no private key, UsageError for a password that is missing or wrong."""
    require_signer()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    encrypted = is_encrypted(key)
    if encrypted and password is None:
        hint = "set QUANTKIT_SIGN_PASSWORD, or run it on a terminal"
        raise UsageError(f"{shown(key)} has a password", key="sign_key", hint=hint)
    try:
        found = load_pem_private_key(read_bounded(key, MAX_KEY), password if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if encrypted:
            what, hint = f"{shown(key)} does not open with this password", "check QUANTKIT_SIGN_PASSWORD"
            raise UsageError(what, key="sign_key", hint=hint) from error
        raise _no_key(key, "private") from error
    if not isinstance(found, EllipticCurvePrivateKey) or found.curve.name not in CURVES:
        raise _no_key(key, "private")


def _no_key(key: Path, kind: str) -> InputError:
    make = "openssl ecparam -name prime256v1 -genkey -noout -out key.pem"
    hint = f"make one: {make}; its public part: openssl ec -in key.pem -pubout -out pub.pem"
    return InputError(f"{shown(key)} is no elliptic {kind} key in PEM ({', '.join(CURVES)})", path=str(key), hint=hint)


def sign_folder(folder: Path, key: Path, password: bytes | None, left_out: Sequence[str]) -> bytes:
    """The signature of all files of a folder but those that are `left_out`, folders among them as a whole. Raises what
    `require_key` does."""
    require_key(key, password)
    from model_signing import hashing, signing

    ignored = [folder / name for name in (SIGNATURE, *left_out)]
    what = hashing.Config().set_ignored_paths(paths=[path.relative_to(folder) for path in ignored])
    opened: Any = password if is_encrypted(key) else None  # the library says str and means bytes
    config = signing.Config().use_elliptic_key_signer(private_key=key, password=opened).set_hashing_config(what)
    return written_by(folder, lambda path: config.sign(folder, path))


def signed_names(path: Path) -> dict[str, str]:
    """The SHA-256 of each file by its name, as a signature says that nobody looked at. Raises InputError."""
    try:
        envelope = _bundle(path)["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        said = parse_json_object(payload, path, values=MAX_VALUES)["predicate"]["resources"]
        return {str(each["name"]): str(each["digest"]) for each in said}
    except (*MALFORMED, binascii.Error) as error:
        raise InputError(f"{shown(path)} is no signature of a folder", path=str(path)) from error


def hint_of_signature(path: Path) -> str:
    """By what a signature tells its key: the SHA-256 of the public one. "" where it does not."""
    try:
        return str(_bundle(path)["verificationMaterial"]["publicKey"]["hint"] or "")
    except (KeyError, TypeError, InputError):
        return ""


def hint_of_key(key: Path, password: bytes | None) -> str:
    """The same of a private key. Raises what `require_key` does."""
    require_key(key, password)
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    private = load_pem_private_key(read_bounded(key, MAX_KEY), password if is_encrypted(key) else None)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(public).hexdigest()


def _bundle(path: Path) -> Mapping[str, Any]:
    return parse_json_object(read_bounded(path, MAX_SIGNATURE), path, values=MAX_VALUES)


def check_signature(folder: Path, public_key: Path, names: Collection[str], *, whole: bool) -> Check:
    """Whether files of a folder are what its signature says, and it is of this key. `names` are the files that are
    there; where they are the `whole` folder, one that was added or removed is found as well.

    Raises UnsupportedError without the library, InputError for what is no public key.
    """
    require_signer()
    _require_public(public_key)
    path = folder / SIGNATURE
    if not path.is_file() or path.is_symlink():
        return _refused(f"{shown(folder)} has no {SIGNATURE}")
    try:
        signed = _authentic(path, public_key)
    except InputError as error:
        return _refused(error.message)
    added, removed = sorted(set(names) - signed.keys()), sorted(signed.keys() - set(names))
    if added:
        return _refused(f"{listed(added)} is not among the files that were signed")
    if whole and removed:
        return _refused(f"{listed(removed)} was signed and is not there")
    for name in sorted(names):
        if hash_file(folder / name) != signed[name]:
            return _refused(f"{shown(name)} is not the file that was signed")
    key = hint_of_signature(path)
    many = f"{len(names):,} of {len(signed):,} files" if len(names) < len(signed) else f"{len(signed):,} files"
    return Check("signature", True, f"{many} signed by the key {key[:16]}", {"key_sha256": key})


def _refused(what: str) -> Check:
    return Check("signature", False, what, hint=REFUSED)


def _require_public(key: Path) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        found = load_pem_public_key(read_bounded(key, MAX_KEY))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _no_key(key, "public") from error
    if not isinstance(found, EllipticCurvePublicKey) or found.curve.name not in CURVES:
        raise _no_key(key, "public")


def _authentic(path: Path, public_key: Path) -> dict[str, str]:
    """The SHA-256 of each file that a signature of this key is over. Raises InputError for one that is not, and for
    hashes of another kind.

    The library verifies whole folders, and what was downloaded may be one file of many: so its verifier of signatures
    is asked, and files are compared here.
    """
    from cryptography.exceptions import InvalidSignature
    from model_signing._signing import sign_ec_key, sign_sigstore_pb

    if not hint_of_signature(path):
        raise InputError("the signature does not say by which key it is")  # of versions before 1.0 of the library
    try:
        signature = sign_sigstore_pb.Signature.read(path)
        manifest = sign_ec_key.Verifier(public_key).verify(signature)
        kind = manifest.serialization_type
    except InvalidSignature as error:
        raise InputError("the signature is not one of this key over these hashes") from error
    except MALFORMED as error:
        raise InputError(f"the signature is not one of this key: {shown(str(error), 200)}") from error
    if (kind.get("method"), kind.get("hash_type")) != ("files", "sha256"):
        raise InputError("the signature is over parts of files, or hashes that are not SHA-256")
    return {each.identifier: each.digest.digest_hex for each in manifest.resource_descriptors()}
