"""What keeping costs: appends to the audit log beside bare writes, verifying it, sealing beside AES-GCM alone.

A bare write is a line as long, already made, written and synced by one thread: what no log that waits for the disk can
do better one entry at a time. How long an fsync takes depends on the disk, and shows in it.
"""

import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from robustbench_jax import sealing, signing
from robustbench_jax.serving.audit_log import AuditLog, verify

ENTRIES, THREADS, MIB = 1920, (1, 4, 16, 64), 256
FIELDS = {"account": "alice", "images": 1, "input": {"kept": "none"}}


def compare(options, alternate) -> None:
    """Prints two tables; alternate: as in benchmark.py."""
    with tempfile.TemporaryDirectory() as place:
        signing.new_key(Path(place, "me"))
        appends(Path(place), options.repeats, alternate)
    seals(options.repeats, alternate)


def appends(place: Path, repeats: int, alternate: Callable) -> None:
    programs = {"bare, synced": lambda: bare(place, True), "bare": lambda: bare(place, False)}
    for count in THREADS:
        programs[f"{count} threads"] = lambda count=count: logged(place, count, True)
    programs["1 thread, not synced"] = lambda: logged(place, 1, False)
    programs["verify"] = lambda: verify(place / "1.jsonl", place / "me.pub")
    seconds, _ = alternate(programs, repeats)
    print(f"{ENTRIES} entries, signed every 100, median of {repeats}\n| what | entries/s |\n| --- | ---: |")
    for what, taken in seconds.items():
        print(f"| {what} | {ENTRIES / taken:,.0f} |")


def bare(place: Path, synced: bool) -> None:
    line = b"x" * 330 + b"\n"
    with open(place / "bare", "wb", buffering=0) as file:
        for _ in range(ENTRIES):
            file.write(line)
            if synced:
                os.fdatasync(file.fileno())


def logged(place: Path, count: int, durable: bool) -> None:
    """The entries, from so many threads at once."""
    path = place / f"{count}.jsonl"
    path.unlink(missing_ok=True)

    def work() -> None:
        for _ in range(ENTRIES // count):
            log.append("request", **FIELDS)

    with AuditLog(path, signing_key=place / "me", durable=durable) as log:
        threads = [threading.Thread(target=work) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def seals(repeats: int, alternate: Callable) -> None:
    data, secret = os.urandom(MIB << 20), sealing.Secret(key=os.urandom(32))
    sealed, cipher = sealing.seal(data, secret), AESGCM(secret.key)
    alone = cipher.encrypt(bytes(12), data, None)
    programs = {
        "seal": lambda: sealing.seal(data, secret),
        "unseal": lambda: sealing.unseal(sealed, "it", secret),
        "AES-GCM alone, encrypt": lambda: cipher.encrypt(bytes(12), data, None),
        "AES-GCM alone, decrypt": lambda: cipher.decrypt(bytes(12), alone, None),
    }
    seconds, _ = alternate(programs, repeats)
    print(f"\n{MIB} MiB, median of {repeats}\n| what | MiB/s |\n| --- | ---: |")
    for what, taken in seconds.items():
        print(f"| {what} | {MIB / taken:,.0f} |")
    seconds, _ = alternate({"scrypt": lambda: sealing.seal(b"", sealing.Secret("a long password"))}, repeats)
    print(f"\nscrypt, log2 N, r, p = {sealing.COST}: {seconds['scrypt']:.2f} s")
