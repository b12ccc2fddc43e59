"""sbatch, squeue, sacct and scancel of a cluster of one machine: as programs, by the name that they are called by.

A job's script is really run, element by element, with what Slurm tells it. FAKE_SLURM is the folder of the cluster:
NUMBER.json says what each element is: PENDING, RUNNING, or how it ended. `ends.json` there forces ends: {"task":
["TIMEOUT", "COMPLETED"]} lets a task time out the first time that it is submitted. `down` there makes commands fail;
`deaf` lets sbatch take an array and die with whoever called it ("killed" in it), or without an answer: by a signal with
"ended", never with "hangs". Such an array stays in the queue; "late" puts it there a moment afterwards, "lost" never
does.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

CLUSTER = Path(os.environ["FAKE_SLURM"])
LIVE = ("PENDING", "RUNNING")


def write(path: Path, body: object) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(body))
    temporary.rename(path)


def jobs() -> dict[str, dict]:
    found = {}
    for path in sorted(CLUSTER.glob("[0-9]*.json")):
        found[path.stem] = json.loads(path.read_text())
    return found


def sbatch(options: dict[str, str], script: str) -> None:
    assert script.startswith("#!/bin/sh\n")
    directives = dict(re.findall(r"^#SBATCH (--[\w-]+)=(.*)$", script, re.M))
    last = int(re.fullmatch(r"0-(\d+)(%\d+)?", directives["--array"])[1])
    number = str(1000 + len(list(CLUSTER.glob("[0-9]*.json"))))
    name = options.get("--job-name", directives["--job-name"])
    body = {"states": ["PENDING"] * (last + 1), "directives": directives, "pids": {}, "name": name}
    (CLUSTER / f"{number}.sh").write_text(script)
    if (CLUSTER / "deaf").exists():
        deaf(number, body, (CLUSTER / "deaf").read_text())
    write(CLUSTER / f"{number}.json", body)
    again = [sys.executable, "-S", __file__, "run", number, options["--output"], options["--chdir"]]
    subprocess.Popen(
        again, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    print(f"{number};cluster" if "--parsable" in options else f"Submitted batch job {number}")


def deaf(number: str, body: dict, how: str) -> None:
    body["states"] = ["RUNNING"] * len(body["states"])
    if how == "late" and os.fork() == 0:
        os.closerange(0, 3)
        time.sleep(1)
        write(CLUSTER / f"{number}.json", body)
        os._exit(0)
    if how not in ("late", "lost"):
        write(CLUSTER / f"{number}.json", body)
    if how == "killed":
        os.kill(os.getppid(), signal.SIGKILL)
    if how == "ended":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hangs":
        time.sleep(60)
    sys.exit("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation")


def run(number: str, output: str, cwd: str) -> None:
    path, ends = CLUSTER / f"{number}.json", CLUSTER / "ends.json"
    for index in range(len(json.loads(path.read_text())["states"])):
        body = json.loads(path.read_text())
        if body["states"][index] != "PENDING":
            continue
        forced = json.loads(ends.read_text()) if ends.exists() else {}
        name = script_words(number)[index]
        if forced.get(name):
            state = forced[name].pop(0)
            write(ends, forced)
            if state != "COMPLETED":
                body["states"][index] = state
                write(path, body)
                continue
        log = Path(output.replace("%%", "\0").replace("%A", number).replace("%a", str(index)).replace("\0", "%"))
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as stream:
            told = {**os.environ, "SLURM_ARRAY_TASK_ID": str(index), "SLURM_JOB_ID": number}
            script = ["sh", str(CLUSTER / f"{number}.sh")]
            child = subprocess.Popen(script, cwd=cwd, stdout=stream, stderr=stream, env=told)
            body["states"][index], body["pids"][str(index)] = "RUNNING", child.pid
            write(path, body)
            code = child.wait()
        body = json.loads(path.read_text())
        body["states"][index] = "COMPLETED" if code == 0 else "FAILED"
        write(path, body)


def script_words(number: str) -> list[str]:
    line = next(line for line in (CLUSTER / f"{number}.sh").read_text().splitlines() if line.startswith("set -- "))
    return line.split()[2:]


def squeue(options: dict[str, str]) -> None:
    known = jobs()
    if "--name" in options:
        asked = [number for number, body in known.items() if body.get("name") == options["--name"]]
    else:
        asked = options.get("--jobs", "").split(",")
    if "--jobs" in options and not set(asked) & set(known):
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    for number, body in known.items():
        for index, state in enumerate(body["states"]):
            if number in asked and state in LIVE:
                print(f"{number}_{index}|{state}")


def sacct(options: dict[str, str]) -> None:
    asked = options["--jobs"].split(",")
    for number, body in jobs().items():
        for index, state in enumerate(body["states"]):
            if f"{number}_{index}" in asked and state not in LIVE:
                print(f"{number}_{index}|{'CANCELLED by 1000' if state == 'CANCELLED' else state}")


def scancel(options: dict[str, str], numbers: list[str]) -> None:
    for number in numbers:
        body = json.loads((CLUSTER / f"{number}.json").read_text())
        for index, state in enumerate(body["states"]):
            if state == "PENDING" and options.get("--signal") is None:
                body["states"][index] = "CANCELLED"
            elif state == "RUNNING" and options.get("--state") != "PENDING":
                os.kill(body["pids"][str(index)], signal.SIGTERM)
        if options.get("--signal") is None:
            write(CLUSTER / f"{number}.json", body)
        time.sleep(0.05)


def main() -> None:
    name, words = Path(sys.argv[0]).name, sys.argv[1:]
    if words[:1] == ["run"]:
        run(*words[1:])
        return
    if (CLUSTER / "down").exists():
        sys.exit(f"{name}: error: Unable to contact slurm controller (connect failure)")
    options = {key: value for key, _, value in (word.partition("=") for word in words if word.startswith("--"))}
    with (CLUSTER / "calls").open("a") as log:
        log.write(json.dumps([name, *words]) + "\n")
    if name == "sbatch":
        sbatch(options, sys.stdin.read())
    elif name == "scancel":
        scancel(options, [word for word in words if not word.startswith("--")])
    else:
        {"squeue": squeue, "sacct": sacct}[name](options)


if __name__ == "__main__":
    main()
