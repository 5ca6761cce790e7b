"""A script that runs one program where a remote sandbox offers no more than "run this Python script".

It makes a throw-away folder, compiles if need be, runs the program in a session of its own with limits and a bare
environment, kills what is left, and prints one line: a marker and the packed outcome. What the program prints goes to
files, never to the script's output. The machine around it is what isolates. Where the script is root, the program is
another user; elsewhere it can fight the script, and at worst make up its own outcome, which is no more than it could
print anyway, since what is expected is not there, or end the script, which counts as a failure of the sandbox.
"""

from __future__ import annotations

import base64
import json
import secrets
import zlib

from open_r1.errors import UserError
from open_r1.sandbox.languages import LANGUAGES, limit_fields
from open_r1.sandbox.program import Limits, Outcome, Program, SandboxFailure

COMPILE_SECONDS = 60.0

_LANGUAGES = {
    "python": ("main.py", None, ["python3", "main.py"]),
    "bash": ("main.sh", None, ["bash", "main.sh"]),
    "javascript": ("main.js", None, ["node", "main.js"]),
    "c": ("main.c", "gcc -std=c17 -O2 -o main *.c -lm", ["./main"]),
    "cpp": ("main.cpp", "g++ -std=c++17 -O2 -o main *.cpp", ["./main"]),
}
_ALIASES = {"python3": "python", "py": "python", "c++": "cpp", "js": "javascript", "sh": "bash"}

_SCRIPT = r"""
def open_r1_run(packed, marker):
    import base64, json, os, resource, shutil, signal, subprocess, tempfile, time, zlib
    job = json.loads(zlib.decompress(base64.b64decode(packed)))
    limits = job["limits"]
    folder = tempfile.mkdtemp()
    home = os.path.join(folder, "work")
    os.mkdir(home)
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": home, "LANG": "C.UTF-8"}
    largest = max(limits["file_bytes"], limits["output_bytes"] + 1)

    nobody = 65534 if os.geteuid() == 0 else None
    if nobody is not None:  # a program of another user cannot touch this script
        os.chmod(folder, 0o711)
        os.chown(home, nobody, nobody)

    def limit():
        wanted = {"CORE": 0, "FSIZE": largest, "AS": limits["address_bytes"], "DATA": limits["data_bytes"],
                  "STACK": limits["stack_bytes"]}
        for name, value in wanted.items():
            kind = getattr(resource, "RLIMIT_" + name)
            most = resource.getrlimit(kind)[1]
            if value is not None:
                value = value if most == resource.RLIM_INFINITY else min(value, most)
                resource.setrlimit(kind, (value, value))
        seconds = int(limits["cpu_seconds"]) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        if nobody is not None:
            os.setgroups([])
            os.setgid(nobody)
            os.setuid(nobody)

    def read(name):
        with open(os.path.join(folder, name), "rb") as file:
            return file.read(limits["output_bytes"] + 1)

    def run(command, seconds, stdin, prepare):
        with open(os.path.join(folder, "in"), "wb") as file:
            file.write(stdin.encode())
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        with open(os.path.join(folder, "in"), "rb") as given, \
             open(os.path.join(folder, "out"), "wb") as out, open(os.path.join(folder, "err"), "wb") as err:
            process = subprocess.Popen(command, cwd=home, env=environment, stdin=given, stdout=out, stderr=err,
                                       start_new_session=True, preexec_fn=prepare)
            expired = False
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                expired = True
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            code = process.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return expired, code, read("out"), read("err"), cpu, time.monotonic() - start

    try:
        for name, text in job["files"].items():
            with open(os.path.join(home, name), "wb") as file:
                file.write(text.encode())
        status = None
        if job["compile"]:
            expired, code, out, err, cpu, wall = run(["sh", "-c", job["compile"]], job["compile_seconds"], "", None)
            if code == 127:
                raise RuntimeError(err.decode(errors="replace"))
            if expired or code:
                status, out = "compile_error", b""
        if status is None:
            expired, code, out, err, cpu, wall = run(job["command"], limits["wall_seconds"], job["stdin"], limit)
            most = max(len(out), len(err))
            if expired or code == -signal.SIGXCPU or cpu > limits["cpu_seconds"]:
                status = "time_limit"
            elif most > limits["output_bytes"] or code == -signal.SIGXFSZ:
                status = "output_limit"
            elif code == 0:
                status = "ok"
            elif b"MemoryError" in err[-300:] or b"bad_alloc" in err[-300:]:
                status = "memory_limit"
            else:
                status = "runtime_error"
        size = limits["output_bytes"]
        outcome = {"status": status, "stdout": out[:size].decode(errors="replace"),
                   "stderr": err[:size].decode(errors="replace"), "exit_code": code if code >= 0 else None,
                   "signal": -code if code < 0 else None, "cpu_seconds": cpu, "wall_seconds": wall}
    except Exception as error:
        outcome = {"failure": type(error).__name__ + ": " + str(error)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(marker + base64.b64encode(zlib.compress(json.dumps(outcome).encode())).decode(), flush=True)

open_r1_run(%r, %r)
"""


def remote_script(program: Program, stdin: str, limits: Limits) -> tuple[str, str]:
    """Returns (script, marker) for one run of a program; the script needs Python 3 and the compilers.

    Raises:
        UserError: the language is not one of python, bash, javascript, c and cpp.
    """
    language = _ALIASES.get(program.language, program.language)
    if language not in _LANGUAGES:
        raise UserError(f"a remote sandbox runs {', '.join(_LANGUAGES)}, not {program.language!r}")
    name, compile_command, command = _LANGUAGES[language]
    job = {
        "files": {**program.files, name: program.source},
        "compile": compile_command,
        "compile_seconds": COMPILE_SECONDS,
        "command": command,
        "stdin": stdin,
        "limits": limit_fields(LANGUAGES[language], limits),
    }
    packed = base64.b64encode(zlib.compress(json.dumps(job).encode(errors="replace"))).decode()
    marker = f"open-r1-{secrets.token_hex(16)}:"
    return _SCRIPT % (packed, marker), marker


def script_seconds(limits: Limits) -> float:
    """The longest that a script may take."""
    return limits.wall_seconds + COMPILE_SECONDS + 5.0


def read_outcome(printed: str, marker: str) -> Outcome:
    """Returns the outcome that a script printed.

    Raises:
        SandboxFailure: it printed none, or could not run the program at all.
    """
    _, found, rest = printed.rpartition(marker)
    if not found:
        raise SandboxFailure(f"the remote sandbox did not finish the run; it printed {printed[-200:]!r}")
    try:
        outcome = json.loads(zlib.decompress(base64.b64decode("".join(rest.split()))))
        if "failure" in outcome:
            raise SandboxFailure(f"the remote sandbox could not run the program: {outcome['failure']}")
        return Outcome(**outcome)
    except (ValueError, TypeError, zlib.error) as error:
        raise SandboxFailure(f"what the remote sandbox printed was cut ({error})") from error
