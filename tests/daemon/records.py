"""Schedule records as the cache and exported files hold them, written and damaged from outside."""
import hashlib
import sqlite3
import struct
import time

VERIFIED, IMPORTED = 1, 2
CAUSES = ("measured", "compile_error", "timeout", "oom", "crash", "wrong_result")


def seal(head, body):
    return head + hashlib.sha256(head + body).digest() + body


def record(kernel, target, opts, median=1000, cause=0, flags=0, name="k", version=1, host="elsewhere"):
    texts = b"".join(t.encode() + b"\0" for t in (opts, name, "compiler", host))
    numbers = [cause, flags, 0 if cause else median, 1, 5, 0, time.time_ns(), 0, len(texts)]
    body = kernel + target + bytes(32) + struct.pack("<9Q", *numbers) + texts
    return seal(b"KSCH" + bytes([version, 0, 0, 0]) + struct.pack("<Q", len(body)), body)


def file(*records, version=1, count=None):
    body = b"".join(records)
    return seal(b"KILNSCHD" + struct.pack("<IIQQ", version, 0, len(records) if count is None else count, len(body)), body)


def insert(path, kernel, target, opts, median=1000, cause=0, flags=0, blob=None, **kw):
    """A row of the cache file, as a daemon would have written it."""
    blob = record(kernel, target, opts, median, cause, flags, **kw) if blob is None else blob
    db = sqlite3.connect(path)
    with db:
        db.execute("INSERT OR REPLACE INTO schedules(kernel, target, opts, class, cause, verified, imported, median, measured, bytes, record)"
                   " VALUES(?, ?, ?, NULL, ?, ?, ?, ?, ?, ?, ?)",
                   (kernel, target, opts, cause, flags & 1, flags >> 1 & 1, 0 if cause else median, time.time_ns(), len(blob) + 256, blob))
    db.close()


def rows(path, columns="opts, cause, verified, imported"):
    db = sqlite3.connect(path)
    try:
        return sorted(db.execute(f"SELECT {columns} FROM schedules").fetchall())
    finally:
        db.close()


def kernels(path):
    """(kernel hash, target fingerprint) of what is compiled."""
    db = sqlite3.connect(path)
    try:
        return db.execute("SELECT hash, target FROM entries WHERE kind=1").fetchall()
    finally:
        db.close()
