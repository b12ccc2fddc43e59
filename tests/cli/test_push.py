"""quantkit push, against a stand-in for the Hub: what is sent, what is not, and what happens when things go wrong."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace

import pytest
from adapters import Lora, make_adapter, weights_of
from commands import TINY, Outcome, quantkit
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hub_writer import WriterState, pushed_to, serve_writer
from huggingface_hub import constants
from published import require

from quantkit.hub import client, outgoing, repository, sending

REPO, SPEC = "me/Tiny-GGUF", "hf://me/Tiny-GGUF"
TOKEN = "hf_" + "CaNaRy0123456789" * 2


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two GGUF files, their manifests and sums, and a card; and a checkpoint."""
    folder = tmp_path_factory.mktemp("made")
    assert quantkit("convert", TINY, "--to", "q4_0,q8_0", "-o", folder / "files", "--card").status == 0
    assert quantkit("convert", TINY, "--to", "fp8", "-o", folder / "checkpoint").status == 0
    assert quantkit("convert", TINY, "--to", "q4_1", "-o", folder / "blind", "--no-verify").status == 0
    return folder


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "files", tmp_path / "out"))


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> Iterator[WriterState]:
    monkeypatch.setattr(repository, "WAIT_S", 0.01)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with pushed_to(WriterState(token=TOKEN)) as found:
        yield found


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def push(*arguments: object, status: int = 0) -> Outcome:
    """Push, and look that nobody says the token or a signed address."""
    done = quantkit("push", *arguments)
    assert done.status == status, done.stderr
    for text in (done.stdout, done.stderr):
        assert TOKEN not in text
        assert "secret-signature" not in text
        assert "Traceback" not in text
    if status:
        assert "hint:" in done.stderr
    return done


# --- what is sent ----------------------------------------------------------------------------------------------------


def test_a_folder_goes_in_one_commit(out: Path, state: WriterState, tmp_path: Path) -> None:
    """Bytes, hashes, one commit on the head; the second time nothing is sent."""
    dry = push(out, SPEC, "--dry-run", "--json").json
    require(dry)
    assert (dry["created"], dry["commit"], dry["dry_run"], state.repos) == (True, None, True, {})
    events = tmp_path / "events.jsonl"
    done = push(out, SPEC, "--json", "--events", events, "--private").json
    require(done)
    sent = files_of(out)
    assert {n: d for n, d in state.content(REPO).items() if n != ".gitattributes"} == sent
    assert state.private[REPO]
    [commit] = state.commits
    assert commit["paths"] == sorted(sent)
    assert commit["summary"] == "Add out"
    assert done["commit"] == state.repos[REPO]["main"].commit
    assert {f["name"]: f["sha256"] for f in done["files"]} == {
        n: hashlib.sha256(d).hexdigest() for n, d in sent.items()
    }
    assert {f["state"] for f in done["files"]} == {"new"}
    assert done["bytes"] == sum(map(len, sent.values())) == done["sent_bytes"]
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    assert TOKEN not in events.read_text()
    moved = [e for e in lines if e["event"] == "TensorProgress" and e["stage"] == "upload"]
    assert moved[-1]["done_bytes"] <= moved[-1]["total_bytes"] == done["bytes"]
    before = len(state.requests)
    again = push(out, SPEC, "--json").json
    require(again)
    assert (again["up_to_date"], again["commit"], again["sent_bytes"]) == (True, done["commit"], 0)
    assert {r.method for r in state.requests[before:]} == {"GET"}
    assert "are there already" in push(out, SPEC).stdout


def test_one_file_goes_with_its_manifest(out: Path, state: WriterState) -> None:
    state.put(REPO, {"README.md": b"mine"})
    [file] = out.glob("*Q8_0.gguf")
    done = push(file, SPEC, "--message", "Eight bits", "--json").json
    names = {file.name, file.name.replace(".gguf", ".manifest.json")}
    assert {f["name"] for f in done["files"]} == names
    assert state.content(REPO)["README.md"] == b"mine"
    assert state.commits[0]["summary"] == "Eight bits"


def test_a_checkpoint_beside_other_weights(made: Path, state: WriterState) -> None:
    state.put(REPO, {"model-00009-of-00009.safetensors": b"old", "config.json": b"{}"})
    done = push(made / "checkpoint", SPEC, "--json")
    assert "warning[strangers]" in done.stderr
    assert {f["name"]: f["state"] for f in done.json["files"]}["config.json"] == "other"
    assert files_of(made / "checkpoint").items() <= state.content(REPO).items()


def test_a_release_that_is_no_longer_so_stays(out: Path, state: WriterState, tmp_path: Path) -> None:
    """Files that were added or written anew behind release.json, and behind the signature over it."""
    made = ec.generate_private_key(ec.SECP256R1())
    key = tmp_path / "key.pem"
    key.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert quantkit("release", out, "--sign-key", key, "-q").status == 0
    push(out, SPEC, "--dry-run")
    first = (out / "model.sig").read_bytes()
    (out / "notes.txt").write_text("later")
    assert "notes.txt is not in release.json" in push(out, SPEC, status=7).stderr
    (out / "notes.txt").unlink()
    assert quantkit("card", out, "--quantized-by", "me", "-q").status == 0
    assert "README.md is not the file that release.json says" in push(out, SPEC, status=7).stderr
    assert quantkit("release", out, "--quantized-by", "me", "--sign-key", key, "-q").status == 0
    signed = (out / "model.sig").read_bytes()
    (out / "model.sig").write_bytes(first)
    assert "model.sig signs another README.md" in push(out, SPEC, status=7).stderr
    assert state.repos == {}
    (out / "model.sig").write_bytes(signed)
    push(out, SPEC)
    assert state.content(REPO)["model.sig"] == signed


def test_branches_and_requests(out: Path, state: WriterState) -> None:
    push(out, SPEC, "--revision", "v2")
    assert set(state.repos[REPO]) == {"main", "v2"}
    assert "README.md" not in state.repos[REPO]["main"].files
    push(out, f"{SPEC}@v3")
    assert "v3" in state.repos[REPO]
    asked = push(out, SPEC, "--pr", "--json").json
    assert asked["url"].endswith("/discussions/1")
    assert state.commits[-1]["pr"]
    assert "README.md" not in state.repos[REPO]["main"].files


def test_in_parts(out: Path, state: WriterState) -> None:
    state.part_bytes = 1 << 20
    push(out, SPEC)
    assert files_of(out).items() <= state.content(REPO).items()


def test_what_the_storage_has_is_not_sent(out: Path, state: WriterState) -> None:
    """The same bytes under another name, or of another repository."""
    for file in out.glob("*.gguf"):
        data = file.read_bytes()
        state.objects[hashlib.sha256(data).hexdigest()] = data
    done = push(out, SPEC, "--json").json
    assert state.stored() == 0
    assert done["sent_bytes"] < 1 << 20
    assert files_of(out).items() <= state.content(REPO).items()


def test_a_run_that_was_stopped_goes_on(out: Path, state: WriterState, monkeypatch: pytest.MonkeyPatch) -> None:
    """The storage hangs up in the second file: the first is not sent again."""
    monkeypatch.setattr(repository, "WORKERS", 1)
    small, large = sorted(out.glob("*.gguf"), key=lambda p: p.name)
    state.cut = small.stat().st_size + 1000
    push(out, SPEC, status=9)
    assert state.commits == []
    assert [len(data) for data in state.objects.values()] == [small.stat().st_size]
    before, state.cut = state.stored(), None
    push(out, SPEC)
    assert state.stored() - before == large.stat().st_size
    assert files_of(out).items() <= state.content(REPO).items()
    assert len(state.commits) == 1


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_goes_on(sign: signal.Signals, out: Path, state: WriterState, tmp_path: Path) -> None:
    """In the middle of the second large file: the first is not sent again, and there is one commit."""
    small, large = sorted(out.glob("*.gguf"), key=lambda path: path.name)
    state.held = {hashlib.sha256(large.read_bytes()).hexdigest()}
    told = {"HF_ENDPOINT": state.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
    command = [sys.executable, "-m", "quantkit", "push", str(out), SPEC]
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, env=os.environ | told) as run:
        assert state.waiting.wait(60)
        while hashlib.sha256(small.read_bytes()).hexdigest() not in state.objects:
            time.sleep(0.01)
        run.send_signal(sign)
        state.held.clear()
        state.go_on.set()
        said = "".join(run.communicate(timeout=30))
    assert run.returncode == (130 if sign == signal.SIGINT else -sign)
    assert TOKEN not in said
    assert "Traceback" not in said
    assert not state.commits
    state.objects.pop(hashlib.sha256(large.read_bytes()).hexdigest(), None)  # as if it had been cut off
    before = state.stored()
    push(out, SPEC)
    assert state.stored() - before == large.stat().st_size
    assert len(state.commits) == 1


def test_large_files_are_never_in_memory_as_a_whole(
    out: Path, state: WriterState, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = []
    read = sending.Reading.read

    def counted(self: sending.Reading, size: int | None = -1) -> bytes:
        data = read(self, size)
        pieces.append(len(data))
        return data

    monkeypatch.setattr(sending.Reading, "read", counted)
    [file] = out.glob("*Q8_0.gguf")
    push(file, SPEC)
    assert max(pieces) <= 1 << 20 < file.stat().st_size


def test_folders_in_the_folder_go_along(made: Path, out: Path, state: WriterState) -> None:
    """Artifacts in them are judged as well; what a manifest there promises is compared."""
    shutil.copytree(made / "checkpoint", out / "fp8")
    push(out, SPEC)
    assert files_of(out).items() <= state.content(REPO).items()
    [card] = (out / "fp8").glob("tokenizer.json")
    card.write_bytes(card.read_bytes() + b" ")
    assert "not verified" in push(out, SPEC, status=7).stderr


def test_public_keys_may_go(out: Path, state: WriterState) -> None:
    (out / "sign.pem").write_text("-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----\n")
    push(out, SPEC)
    assert "sign.pem" in state.content(REPO)


def test_a_stored_login_is_used_and_never_sent_as_text(
    out: Path, state: WriterState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = "a-token-of-no-known-form-0123"
    state.token = odd
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "login").write_text(odd)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "login"))
    (out / "notes.md").write_text(f"use {odd}")
    assert odd not in push(out, SPEC, status=3).stderr
    (out / "notes.md").unlink()
    state.busy = {"/commit/": [(400, {"X-Error-Message": f"your token {odd} is odd"})]}
    assert odd not in push(out, SPEC, status=9).stderr
    push(out, SPEC)


# --- what must not go ------------------------------------------------------------------------------------------------


def changed(out: Path) -> None:
    file = next(out.glob("*Q4_0.gguf"))
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


def gated_out(out: Path) -> None:
    from quantkit.report.manifest import read_manifest

    path = next(out.glob("*Q4_0.manifest.json"))
    manifest = read_manifest(path)
    gate = {"gate": "kld<0.01", "ok": False, "metric": "kld", "value": 1.0, "bound": 1.1, "limit": 0.01}
    manifest.facts["checks"].append({"check": "gates", "ok": False, "detail": "", "gates": [gate]})
    data = manifest.encode()
    sums = out / "SHA256SUMS"
    old = hashlib.sha256(path.read_bytes()).hexdigest()
    sums.write_text(sums.read_text().replace(old, hashlib.sha256(data).hexdigest()))
    path.write_bytes(data)


def without_manifests(out: Path) -> None:
    for path in out.glob("*.manifest.json"):
        path.unlink()


REFUSED: list[tuple[str, Callable[[Path], object], int, str]] = [
    ("changed bytes", changed, 7, "not verified"),
    ("a manifest changed", lambda out: next(out.glob("*.json")).write_text("{}"), 7, "manifest"),
    ("a failed gate", gated_out, 8, "did not keep its gates"),
    ("no manifest", without_manifests, 3, "no artifact with a manifest"),
    ("an unknown file of weights", lambda out: (out / "x.gguf").write_bytes(b"GGUF"), 7, "no manifest is of"),
    ("an unfinished job", lambda out: (out / ".quantkit-0123456789ab").mkdir(), 6, "not finished"),
    ("a clone", lambda out: (out / ".git").mkdir(), 3, "clone of a repository"),
    ("a pickle", lambda out: (out / "pytorch_model.bin").write_bytes(b"x"), 3, "run code"),
    ("a work folder", lambda out: (out / "work.json").write_bytes(b"{}"), 3, "work folder"),
    ("a password file", lambda out: (out / ".env").write_text("A=1"), 3, "looks like a secret"),
    ("a private key", lambda out: (out / "sign.pem").write_text("x"), 3, "looks like a secret"),
    ("a token in a text", lambda out: (out / "notes.md").write_text(f"x\ntoken {TOKEN}\n"), 3, "in line 2"),
    ("a key in a text", lambda out: (out / "a.md").write_text("-----BEGIN PRIVATE KEY-----"), 3, "private key"),
    ("a link that leads away", lambda out: (out / "name.txt").symlink_to("/etc/hostname"), 3, "outside of the folder"),
    ("a link to nothing", lambda out: (out / "x.txt").symlink_to(out / "y.txt"), 3, "does not exist"),
    ("a pipe", lambda out: os.mkfifo(out / "pipe"), 3, "not a regular file"),
    ("a name with a line break", lambda out: (out / "a\nb.md").write_text("x"), 3, "no name"),
]  # fmt: skip


@pytest.mark.parametrize(("do", "status", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_must_not_be_published(
    do: Callable[[Path], object], status: int, words: str, out: Path, state: WriterState
) -> None:
    do(out)
    done = push(out, SPEC, status=status)
    assert words in done.stderr
    assert {r.method for r in state.requests} <= {"GET"}
    assert not state.commits


def test_what_was_never_compared_is_refused(made: Path, state: WriterState) -> None:
    done = push(made / "blind", SPEC, status=7)
    assert "--no-verify" in done.stderr
    push(made / "blind", SPEC, "--against", TINY, "--dry-run")
    assert "judged by no gate" in push(made / "files", SPEC, "--require-gates", status=8).stderr
    assert not state.commits


def test_adapters_that_were_merged_are_part_of_the_source(state: WriterState, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "tuned", weights_of(TINY), Lora(), base="org/base")
    make = ("convert", TINY, "--adapter", adapter, "--to", "q8_0", "-o", tmp_path / "out", "--no-verify", "-q")
    assert quantkit(*make).status == 0
    assert "--adapter needs --against" in push(tmp_path / "out", SPEC, "--adapter", adapter, status=2).stderr
    push(tmp_path / "out", SPEC, "--against", TINY, status=7)  # without it it is another model
    push(tmp_path / "out", SPEC, "--against", TINY, "--adapter", adapter, "--dry-run")


def test_bytes_that_change_after_they_were_hashed(
    out: Path, state: WriterState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written in place between the reading for the hash and the one to send, times put back."""
    file = next(out.glob("*Q8_0.gguf"))
    create = repository.Repository.create

    def write(self: repository.Repository, head: repository.Head) -> repository.Head:
        status = file.stat()
        with file.open("r+b") as handle:
            handle.seek(status.st_size - 100)
            handle.write(b"changed")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        return create(self, head)

    monkeypatch.setattr(repository.Repository, "create", write)
    assert "changed while it was read" in push(out, SPEC, status=3).stderr
    assert state.commits == []
    assert not [oid for oid, data in state.objects.items() if b"changed" in data[-100:]]


def test_hidden_files_and_leftovers_stay(out: Path, state: WriterState) -> None:
    for name in (".DS_Store", "notes.md~", "x.tmp"):
        (out / name).write_text("x")
    done = push(out, SPEC, "--json")
    assert done.json["left_out"] == [".DS_Store", "notes.md~", "x.tmp"]
    assert "warning[left-out]" in done.stderr
    assert not {".DS_Store", "notes.md~", "x.tmp"} & set(state.content(REPO))


# --- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hf://datasets/me/x"], "no model repository"),
        (["hf://me"], "names no model repository"),
        (["hf://me/a--b"], "names no model repository"),
        (["hf://me/x/y.gguf"], "names no model repository"),
        (["https://example.org/me/x"], "is not the Hugging Face Hub"),
        ([f"{SPEC}@a", "--revision", "b"], "another branch"),
        ([SPEC, "--revision", "a b"], "no name of a branch"),
        ([SPEC, "--revision", "../x"], "no name of a branch"),
        ([SPEC, "--message", " "], "empty"),
        ([SPEC, "--offline"], "needs the network"),
    ],
)
def test_targets_that_are_none(arguments: list[str], words: str, made: Path, state: WriterState) -> None:
    assert words in push(made / "files", *arguments, status=2).stderr
    assert state.requests == []


def test_private_does_not_hide_what_is_public(out: Path, state: WriterState) -> None:
    state.put(REPO, {"README.md": b"x"})
    assert "is public" in push(out, SPEC, "--private", status=2).stderr


# --- a Hub in trouble ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["/tree/", "/preupload/", "/objects/batch", "/commit/", "/lfs/verify"])
def test_a_busy_hub_is_waited_for(part: str, out: Path, state: WriterState) -> None:
    state.busy = {part: [(503, {}), (429, {"Retry-After": "0"}), (500, {})]}
    [file] = out.glob("*Q4_0.gguf")
    done = push(file, SPEC)
    assert "warning[hub]" in done.stderr
    assert len(state.commits) == 1
    assert file.name in state.content(REPO)


def test_a_storage_in_trouble_is_waited_for(out: Path, state: WriterState) -> None:
    [file] = out.glob("*Q4_0.gguf")
    state.busy = {hashlib.sha256(file.read_bytes()).hexdigest(): [(500, {}), (503, {})]}
    push(file, SPEC)
    assert state.content(REPO)[file.name] == file.read_bytes()


@pytest.mark.parametrize("part", ["/preupload/", "/commit/"])
def test_a_hub_that_wants_hours_ends_the_run(part: str, out: Path, state: WriterState) -> None:
    state.busy = {part: [(429, {"Retry-After": "7200"})]}
    done = push(next(out.glob("*Q4_0.gguf")), SPEC, status=9)
    assert "7,200 s" in done.stderr
    assert state.busy[part] == []


@pytest.mark.parametrize("part", ["/tree/", "/preupload/", "/commit/"])
def test_a_hub_that_stays_broken_ends_the_run(part: str, out: Path, state: WriterState) -> None:
    state.busy = {part: [(502, {})] * 20}
    push(next(out.glob("*Q4_0.gguf")), SPEC, status=9)
    assert not state.commits


@pytest.mark.parametrize(
    ("part", "status", "words"),
    [
        ("/api/repos/create", 403, "write access"),
        ("/preupload/", 403, "write access"),
        ("/commit/", 403, "write access"),
        ("/commit/", 401, "HF_TOKEN"),
        ("/api/models/", 401, "HF_TOKEN"),
        ("/commit/", 413, "fewer files"),
    ],
)
def test_what_the_hub_forbids(part: str, status: int, words: str, out: Path, state: WriterState) -> None:
    state.busy = {part: [(status, {})]}
    done = push(next(out.glob("*Q4_0.gguf")), SPEC, status=9)
    assert words in done.stderr
    assert not state.commits


def test_a_wrong_token(out: Path, state: WriterState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "wrong0123456789" * 2)
    done = push(out, SPEC, status=9)
    assert "hf_wrong" not in done.stderr
    assert "write access" in done.stderr


def test_the_answer_to_a_commit_that_is_lost(out: Path, state: WriterState) -> None:
    """The commit was made: it is found, and not made twice."""
    state.lose = True
    done = push(out, SPEC, "--json").json
    assert len(state.commits) == 1
    assert done["commit"] == state.repos[REPO]["main"].commit


def test_others_may_commit_other_files_meanwhile(out: Path, state: WriterState) -> None:
    state.put(REPO, {"README.md": b"theirs"})
    state.before_commit = [lambda: state.put(REPO, {"other.txt": b"theirs"})] * 2
    push(out, SPEC)
    assert state.content(REPO)["other.txt"] == b"theirs"
    assert files_of(out).items() <= state.content(REPO).items()


def test_others_may_not_commit_the_same_files_meanwhile(out: Path, state: WriterState) -> None:
    state.put(REPO, {"README.md": b"before"})
    state.before_commit = [lambda: state.put(REPO, {"README.md": b"theirs"})]
    done = push(out, SPEC, status=6)
    assert "somebody else changed me/Tiny-GGUF meanwhile: README.md" in done.stderr
    assert state.content(REPO)["README.md"] == b"theirs"


def test_a_card_that_the_hub_refuses(out: Path, state: WriterState) -> None:
    state.bad_card = True
    done = push(out, SPEC, status=3)
    assert "license is unknown" in done.stderr


def test_what_the_hub_thinks_of_a_card_is_a_warning_of_ours(out: Path, state: WriterState) -> None:
    state.card_warnings = ("empty or missing license",)
    assert "warning[hub]: Warnings while validating metadata in README.md: - empty" in push(out, SPEC).stderr


def test_a_gitignore_of_the_repository(out: Path, state: WriterState) -> None:
    [file] = out.glob("*Q4_0.gguf")
    state.ignored = frozenset({file.name})
    assert ".gitignore" in push(file, SPEC, status=2).stderr
    assert not state.commits


@pytest.mark.parametrize("part", ["/api/models/", "/preupload/", "/objects/batch", "/commit/", "/api/repos"])
def test_the_token_does_not_follow_redirects(part: str, out: Path, state: WriterState) -> None:
    """To another server, which answers as the Hub does."""
    with serve_writer(WriterState()) as other:
        other.put(REPO, {"README.md": b"x"})
        state.elsewhere = {part: other.endpoint}
        done = quantkit("push", next(out.glob("*Q4_0.gguf")), SPEC)
        assert TOKEN not in done.stdout + done.stderr
        assert other.requests
        assert not [r for r in other.requests if r.token]
    assert not [r for r in state.requests if r.storage and r.token]


def test_the_token_goes_to_no_other_host_that_the_hub_names(out: Path, state: WriterState) -> None:
    with serve_writer(WriterState()) as other:
        state.verifier = other.endpoint
        quantkit("push", next(out.glob("*Q4_0.gguf")), SPEC)
        assert [request.token for request in other.requests] == [None]


def test_the_bound_on_waiting_knows_both_headers() -> None:
    for headers, seconds in (({"ratelimit": '"api";r=0;t=299'}, 299), ({"retry-after": "7"}, 7), ({}, 0)):
        assert client.wait_of(SimpleNamespace(status_code=429, headers=headers)) == seconds


def test_tokens_of_the_canary_are_known() -> None:
    assert outgoing.SECRETS.search(TOKEN.encode())
