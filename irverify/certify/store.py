"""What a sweep has decided, on disk: a SQLite file that survives a crash at any moment."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from irverify.certify.outcome import Outcome
from irverify.errors import FileError, UsageError

FILE = "certify.sqlite"
KIND, FORMAT = 0x49525663, 1
"""What the file says it is (`PRAGMA application_id`), and the version of its tables (`PRAGMA user_version`)."""
TABLES = """
CREATE TABLE identity (part TEXT PRIMARY KEY, says TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE radius (eps REAL PRIMARY KEY, seconds REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE outcome (
  eps REAL NOT NULL REFERENCES radius, image INTEGER NOT NULL, status TEXT NOT NULL,
  time_limit REAL, attempts INTEGER NOT NULL, content TEXT NOT NULL, PRIMARY KEY (eps, image)
) WITHOUT ROWID;
"""
RECORD = """
INSERT INTO outcome VALUES (:eps, :image, :status, :limit, 1, :content)
ON CONFLICT (eps, image) DO UPDATE SET
  status = excluded.status, time_limit = excluded.time_limit, content = excluded.content, attempts = attempts + 1
WHERE status IN ('error', 'timeout')
"""
WAIT = 1.0
"""Seconds to wait for another process to leave the file alone."""


@dataclass(frozen=True)
class Stored:
    """An outcome on disk; the time limit that it had (None: none); how often it was attempted."""

    outcome: Outcome
    limit: float | None
    attempts: int

    def final(self, limit: float | None) -> bool:
        """Whether it stays: an error is tried again, and a timeout where `limit` gives it more time."""
        if self.outcome.status == "timeout":
            return (math.inf if self.limit is None else self.limit) >= (math.inf if limit is None else limit)
        return self.outcome.status != "error"


class Store:
    """The outcomes of one question for any number of radii and images, in `FILE` in a folder.

    Every outcome is a transaction of its own: it is there as a whole or not at all, and killing the program loses none
    (a power failure may lose the last ones). The file is for one process at a time. Every failure is a FileError; what
    was stored before it stays stored.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str]) -> None:
        """Opens the store, or makes one. UsageError where it holds another question, FileError where it is in use,
        broken, or cannot be written."""
        self._path = folder / FILE
        with self._failures():
            self._connection = sqlite3.connect(self._path, timeout=WAIT, isolation_level=None)
        try:
            with self._failures():
                self._claim()
                self._check_kind(identity)
            self._check_identity(identity)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._failures():
            self._connection.close()

    def stored(self, eps: float, indices: Sequence[int]) -> dict[int, Stored]:
        """What is known of these images at a radius."""
        wanted = set(indices)
        with self._failures():
            rows = self._connection.execute(
                "SELECT image, time_limit, attempts, content FROM outcome WHERE eps = ?", (eps,)
            ).fetchall()
            return {
                image: Stored(Outcome(**json.loads(content)), limit, attempts)
                for image, limit, attempts, content in rows
                if image in wanted
            }

    def seconds(self, eps: float) -> float:
        """The time of the wall clock that went into a radius so far."""
        with self._failures():
            row = self._connection.execute("SELECT seconds FROM radius WHERE eps = ?", (eps,)).fetchone()
        return 0.0 if row is None else float(row[0])

    def record(self, eps: float, outcome: Outcome, limit: float | None, seconds: float) -> None:
        """Adds an outcome, and these seconds to its radius. An error or a timeout gives way to it; anything else is
        decided, and deciding it twice a RuntimeError."""
        values = {
            "eps": eps, "image": outcome.index, "status": outcome.status, "limit": limit,
            "content": json.dumps(asdict(outcome)),
        }  # fmt: skip
        with self._failures(), self._transaction():
            self._connection.execute(
                "INSERT INTO radius VALUES (?, ?) ON CONFLICT (eps) DO UPDATE SET seconds = seconds + excluded.seconds",
                (eps, seconds),
            )
            if self._connection.execute(RECORD, values).rowcount != 1:
                raise RuntimeError(f"image {outcome.index} is decided twice at eps {eps}")

    def _claim(self) -> None:
        """Takes the file for this process, until it is closed or the process ends, however it does."""
        run = self._connection.execute
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        with self._transaction():
            pass

    def _check_kind(self, identity: Mapping[str, str]) -> None:
        """Whether the file is a store of this format, and whole; one that is empty becomes one."""
        run = self._connection.execute
        (kind,), (format_,) = (run(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version"))
        (tables,) = run("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables:
            with self._transaction():
                for statement in TABLES.split(";")[:-1]:
                    run(statement)
                self._connection.executemany("INSERT INTO identity VALUES (?, ?)", identity.items())
                run(f"PRAGMA application_id = {KIND}")
                run(f"PRAGMA user_version = {FORMAT}")
        elif (kind, format_) != (KIND, FORMAT):
            what = f"a store in format {format_}" if kind == KIND else "another database"
            raise FileError(f"expected a store of outcomes in format {FORMAT}, got {what}", where=str(self._path))
        else:
            (said,) = run("PRAGMA quick_check(1)").fetchone()
            if said != "ok":
                raise sqlite3.DatabaseError(said)

    def _check_identity(self, identity: Mapping[str, str]) -> None:
        with self._failures():
            stored = dict(self._connection.execute("SELECT part, says FROM identity").fetchall())
        different = [
            f"{part} {_short(stored.get(part))}, not {_short(says)}"
            for part, says in identity.items()
            if stored.get(part) != says
        ]
        if different or stored.keys() != identity.keys():
            raise UsageError(
                f"this folder holds outcomes of another question: {'; '.join(different) or 'more than is asked'}",
                where=str(self._path),
                hint="give another folder with --out",
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Says what SQLite's errors mean."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise self._failure(error) from error
        except (ValueError, TypeError) as error:  # what stands in a row is no outcome
            raise self._broken(error) from error

    def _failure(self, error: sqlite3.DatabaseError) -> FileError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # Python 3.11 on
        text = str(error)
        if code in (5, 6) or "locked" in text:  # SQLITE_BUSY, SQLITE_LOCKED
            hint = "wait until it has ended, or give another folder with --out"
            return FileError("in use by another sweep", where=str(self._path), hint=hint)
        if code in (11, 26) or not isinstance(error, sqlite3.OperationalError):  # SQLITE_CORRUPT, SQLITE_NOTADB
            return self._broken(error)
        hint = "what was stored before stays stored; once there is room, the same command goes on"
        return FileError(f"cannot be written or read: {text}", where=str(self._path), hint=hint)

    def _broken(self, error: Exception) -> FileError:
        hint = "move it away to start anew"
        return FileError(f"not a store of outcomes, or a broken one: {error}", where=str(self._path), hint=hint)


def _short(says: str | None) -> str:
    """Enough of a text to see that it differs."""
    return "unknown" if says is None else says if len(says) < 64 else f"{says[:12]}..."
