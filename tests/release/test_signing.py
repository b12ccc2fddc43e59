"""Signatures: the library's own command line reads what is signed, and what it signs is read; nothing else passes."""

from __future__ import annotations

import base64
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import quantkit
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from released import Made

from quantkit.extras import is_installed

if not is_installed("model_signing"):
    pytest.skip("the extra sign is not installed", allow_module_level=True)

PASSWORD = "a password with 'quotes'"


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes | None = None) -> bytes:
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)


def public(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """key.pem and pub.pem, those of somebody else, one with a password, one that is not elliptic."""
    folder = tmp_path_factory.mktemp("keys")
    mine, others = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
    (folder / "key.pem").write_bytes(pem(mine))
    (folder / "hidden.pem").write_bytes(pem(mine, PASSWORD.encode()))
    (folder / "pub.pem").write_bytes(public(mine))
    (folder / "theirs.pem").write_bytes(pem(others))
    (folder / "their-pub.pem").write_bytes(public(others))
    round_ones = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (folder / "rsa.pem").write_bytes(pem(round_ones))
    (folder / "rsa-pub.pem").write_bytes(public(round_ones))
    (folder / "koblitz.pem").write_bytes(pem(ec.generate_private_key(ec.SECP256K1())))
    (folder / "none.pem").write_text("nothing")
    return folder


@pytest.fixture(scope="module")
def done(kept: Made, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed release of two files that nobody changes."""
    folder = tmp_path_factory.mktemp("signed") / "out"
    folder.mkdir()
    for name in ("src-Q4_0", "src-Q8_0"):
        for path in kept.out.glob(f"{name}*"):
            shutil.copy(path, folder)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "hidden").write_text("x")
    found = quantkit("release", folder, "--sign-key", keys / "key.pem", "--json")
    assert found.status == 0, found.stderr
    assert found.json["releases"][0]["signed"]
    return folder


@pytest.fixture
def signed(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "out"))


def oracle(*arguments: object) -> tuple[int, str]:
    """The command line of the library."""
    from click.testing import CliRunner
    from model_signing._cli import main

    found = CliRunner().invoke(main, [str(each) for each in arguments])
    return found.exit_code, found.output


def test_the_librarys_own_command_line_reads_what_is_signed(signed: Path, keys: Path) -> None:
    place = ("--signature", signed / "model.sig", "--public_key")
    assert oracle("verify", "key", signed, *place, keys / "pub.pem")[0] == 0
    assert oracle("verify", "key", signed, *place, keys / "their-pub.pem")[0] == 1
    (signed / "src-Q4_0.gguf").write_bytes(b"GGUF")
    status, said = oracle("verify", "key", signed, *place, keys / "pub.pem")
    assert (status, "Hash mismatch for 'src-Q4_0.gguf'" in said) == (1, True)


def test_what_the_library_signs_is_read(signed: Path, keys: Path) -> None:
    (signed / "model.sig").unlink()
    shutil.rmtree(signed / ".cache")
    place = ("--signature", signed / "model.sig", "--private_key", keys / "key.pem")
    assert oracle("sign", "key", signed, *place)[0] == 0
    found = quantkit("verify", signed, "--require-signature", keys / "pub.pem")
    assert found.status == 0, found.stderr
    assert found.stdout.startswith("signature  ok")


def test_a_folder_and_each_artifact_of_it_verify(signed: Path, keys: Path) -> None:
    asked = ("--require-signature", keys / "pub.pem")
    assert quantkit("verify", signed, *asked).stdout.startswith("signature  ok           10 files signed by the key")
    (signed / "src-Q8_0.gguf").unlink()  # whoever downloads one file has no other
    (signed / "README.md").unlink()
    found = quantkit("verify", signed / "src-Q4_0.gguf", *asked)
    assert (found.status, "2 of 10 files signed" in found.stdout) == (0, True), found.stderr


def tampered(folder: Path) -> None:
    path = folder / "src-Q4_0.gguf"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def resealed(folder: Path) -> None:
    """A manifest of somebody else that is right by itself: only the signature can tell."""
    from quantkit.report.sealed import seal

    path = folder / "src-Q4_0.manifest.json"
    body = json.loads(path.read_text()) | {"platform": "elsewhere"}
    body["seal"] = seal({key: value for key, value in body.items() if key != "seal"})
    path.write_text(json.dumps(body))
    (folder / "SHA256SUMS").unlink()


def no_signature(folder: Path) -> None:
    (folder / "model.sig").unlink()


def linked_signature(folder: Path) -> None:
    (folder / "model.sig").rename(folder.parent / "elsewhere")
    (folder / "model.sig").symlink_to(folder.parent / "elsewhere")


def no_json(folder: Path) -> None:
    (folder / "model.sig").write_text("nothing")


def of_nothing(folder: Path) -> None:
    (folder / "model.sig").write_text("{}")


def other_payload(folder: Path) -> None:
    """The signature of these files over another list of hashes."""
    path = folder / "model.sig"
    body = json.loads(path.read_text())
    payload = json.loads(base64.b64decode(body["dsseEnvelope"]["payload"]))
    payload["predicate"]["resources"][0]["digest"] = "0" * 64
    body["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    path.write_text(json.dumps(body))


def no_hint(folder: Path) -> None:
    path = folder / "model.sig"
    body = json.loads(path.read_text())
    body["verificationMaterial"]["publicKey"]["hint"] = ""
    path.write_text(json.dumps(body))


EVERYWHERE = (tampered, resealed, no_signature, linked_signature, no_json, of_nothing, other_payload, no_hint)


@pytest.mark.parametrize("spoil", EVERYWHERE, ids=lambda spoil: spoil.__name__)
def test_what_is_not_signed_is_refused(spoil: Callable[[Path], None], signed: Path, keys: Path) -> None:
    spoil(signed)
    for what in (signed, signed / "src-Q4_0.gguf"):
        found = quantkit("verify", what, "--require-signature", keys / "pub.pem")
        assert (found.status, "does not verify: signature: " in found.stderr) == (7, True), found.stderr


def test_what_was_added_or_removed_is_refused(signed: Path, keys: Path) -> None:
    asked = ("--require-signature", keys / "pub.pem")
    (signed / "config.yaml").write_text("x")
    found = quantkit("verify", signed, *asked)
    assert (found.status, "config.yaml is not among the files that were signed" in found.stderr) == (7, True)
    (signed / "config.yaml").unlink()
    (signed / "more").symlink_to("/etc/passwd")
    found = quantkit("verify", signed, *asked)
    assert (found.status, "more is a link" in found.stderr) == (7, True)
    (signed / "more").unlink()
    (signed / "README.md").unlink()
    found = quantkit("verify", signed, *asked)
    assert (found.status, "README.md was signed and is not there" in found.stderr) == (7, True)
    (signed / "src-Q4_0.gguf").rename(signed / "other.gguf")
    found = quantkit("verify", signed / "other.gguf", *asked)
    assert (found.status, "not among the files that were signed" in found.stderr) == (7, True)


@pytest.mark.parametrize(
    ("key", "status", "said"),
    [("their-pub.pem", 7, "is not one of this key"), ("rsa-pub.pem", 3, "no elliptic public key"),
     ("none.pem", 3, "no elliptic public key"), ("key.pem", 3, "no elliptic public key"),
     ("gone.pem", 3, "does not exist")],
)  # fmt: skip
def test_only_the_right_key_will_do(key: str, status: int, said: str, done: Path, keys: Path) -> None:
    for what in (done, done / "src-Q4_0.gguf"):
        found = quantkit("verify", what, "--require-signature", keys / key)
        assert (found.status, said in found.stderr) == (status, True), found.stderr


@pytest.mark.parametrize(
    ("key", "password", "status", "said"),
    [("rsa.pem", None, 3, "no elliptic private key"), ("koblitz.pem", None, 3, "no elliptic private key"),
     ("none.pem", None, 3, "no elliptic private key"), ("pub.pem", None, 3, "no elliptic private key"),
     ("gone.pem", None, 3, "does not exist"), ("hidden.pem", None, 2, "has a password"),
     ("hidden.pem", "wrong", 2, "does not open with this password")],
)  # fmt: skip
def test_keys_that_do_not_sign_are_refused_before_any_work(
    key: str, password: str | None, status: int, said: str, signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if password:
        monkeypatch.setenv("QUANTKIT_SIGN_PASSWORD", password)
    (signed / "README.md").unlink()
    found = quantkit("release", signed, "--sign-key", keys / key)
    assert (found.status, said in found.stderr) == (status, True), found.stderr
    assert "verify " not in found.stderr
    assert not (signed / "README.md").exists()


def test_neither_key_nor_password_is_ever_said(signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTKIT_SIGN_PASSWORD", PASSWORD)
    events = signed.parent / "events.jsonl"
    found = quantkit("release", signed, "--sign-key", keys / "hidden.pem", "--json", "--verbose", "--events", events)
    assert found.status == 0, found.stderr
    written = [path.read_text() for path in signed.iterdir() if path.suffix in (".json", ".md", ".sig", "")
               and path.is_file()]  # fmt: skip
    for text in (*written, found.stdout, found.stderr, events.read_text()):
        assert PASSWORD not in text
    assert not any(str(keys) in text or "hidden.pem" in text for text in written)
    assert quantkit("verify", signed, "--require-signature", keys / "pub.pem", "-q").status == 0


def test_a_signature_is_never_left_to_lie(signed: Path, keys: Path) -> None:
    before = (signed / "model.sig").read_bytes()
    assert quantkit("release", signed, "-q").status == 0  # the same files: it still holds
    assert (signed / "model.sig").read_bytes() == before
    (signed / "notes.txt").write_text("more")
    found = quantkit("release", signed)
    assert (found.status, "signs other files than there will be" in found.stderr) == (6, True)
    found = quantkit("release", signed, "--sign-key", keys / "theirs.pem")
    assert (found.status, "a signature of another key" in found.stderr) == (6, True)
    assert (signed / "model.sig").read_bytes() == before
    assert quantkit("release", signed, "--sign-key", keys / "theirs.pem", "--force", "-q").status == 0
    assert quantkit("verify", signed, "--require-signature", keys / "their-pub.pem", "-q").status == 0
    shutil.copy(keys / "theirs.pem", signed / ".key")
    found = quantkit("release", signed, "--sign-key", signed / ".key")
    assert (found.status, "lies in the folder that is released" in found.stderr) == (3, True)


def test_a_checkpoints_folder_is_signed_as_a_whole(kept: Made, keys: Path, tmp_path: Path) -> None:
    out = tmp_path / "fp8"
    assert quantkit("convert", kept.source, "--to", "fp8", "-o", out, "--card", "-q").status == 0
    assert quantkit("release", out, "--sign-key", keys / "key.pem", "-q").status == 0
    asked = ("--require-signature", keys / "pub.pem")
    assert quantkit("verify", out, *asked, "-q").status == 0
    assert quantkit("verify", out / "model.safetensors", *asked, "-q").status == 0
    (out / "tokenizer_config.json").write_text("{}")
    assert quantkit("verify", out, *asked, "-q").status == 7
    assert quantkit("verify", out / "model.safetensors", *asked, "-q").status == 7


def test_without_the_library_the_extra_is_named(signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    for command in (
        ("release", signed, "--sign-key", keys / "key.pem"),
        ("verify", signed, "--require-signature", keys / "pub.pem"),
    ):
        found = quantkit(*command)
        assert (found.status, "pip install 'quantkit-cli[sign]'" in found.stderr) == (4, True), found.stderr
    assert quantkit("verify", signed, "-q").status == 0  # nobody asked for it
