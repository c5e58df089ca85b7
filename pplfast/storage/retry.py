"""Trying again what a network or an object store may do the next time, with back-off; and how often that was."""

import errno
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from pplfast.errors import UserError

T = TypeVar("T")

ATTEMPTS = 10
FIRST_WAIT, LONGEST_WAIT = 0.1, 10.0  # seconds; the first is doubled each time: half a minute in all
LET_BE = 300.0  # seconds
# Of the operating system, what will be the same the next time.
_PERMANENT = {
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENOSPC, errno.EROFS, errno.EDQUOT,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EFBIG, errno.EEXIST,
}  # fmt: skip
# Of S3, what is a fault of the transport; s3fs gives them the number of a wrong request.
_REFUSED = {"401", "403"}
_PASSING_STATUS = {"408", "425", "429"}  # of HTTP: too slow, too early, too many
_PASSING = {"IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch"}


class StorageError(Exception):
    """A file that cannot be read, written or listed; the message says why, and what to do, without the file's name.
    `gone`: it is not there."""

    def __init__(self, message: str, gone: bool = False) -> None:
        super().__init__(message)
        self.gone = gone


@dataclass
class Retries:
    """count: attempts after the first one, of this process. given_up: files' accesses for which none sufficed."""

    count: int = 0
    given_up: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self) -> None:
        with self._lock:
            self.count += 1

    def give_up(self) -> None:
        with self._lock:
            self.given_up += 1


RETRIES = Retries()


class Unreachable:
    """Files whose reads were given up: for LET_BE nobody else waits for them. The thousand images of a shard that does
    not answer would take hours."""

    def __init__(self) -> None:
        self._until: dict[str, tuple[float, str]] = {}

    def add(self, file: str, why: str) -> None:
        self._until[file] = time.monotonic() + LET_BE, why

    def check(self, file: str) -> None:
        """Raises StorageError for one of them."""
        until, why = self._until.get(file, (0.0, ""))
        if time.monotonic() < until:
            raise StorageError(why)


UNREACHABLE = Unreachable()


def attempt(action: Callable[[], T], wait: Callable[[float], None] = time.sleep, file: str = "") -> T:
    """The action's result, tried up to ATTEMPTS times. file: that it reads, for UNREACHABLE. StorageError for what is
    permanent, or remains."""
    UNREACHABLE.check(file)
    for number in range(ATTEMPTS):
        try:
            return action()
        except UserError:  # of this machine: a package that is not installed
            raise
        except Exception as error:  # each store has exceptions of its own
            if is_permanent(error):
                raise _explained(error) from None
            if number == ATTEMPTS - 1:
                RETRIES.give_up()
                why = f"cannot be reached: {words(error)} ({ATTEMPTS} attempts)"
                why += "; check the store and the network, then run the same command again"
                if file:
                    UNREACHABLE.add(file, why)
                raise StorageError(why) from None
        RETRIES.add()
        longest = min(LONGEST_WAIT, FIRST_WAIT * 2**number)
        wait(longest * random.uniform(0.5, 1.0))  # so that many ranks do not come back at once
    raise AssertionError("the last attempt returns or raises")


def is_permanent(error: BaseException) -> bool:
    """Whether the same would happen again: not there, not allowed, no such bucket, wrong in itself."""
    if isinstance(error, StorageError | FileNotFoundError | PermissionError | NotImplementedError | ImportError):
        return True
    if isinstance(error, TypeError | ValueError | KeyError | AttributeError):
        return True
    code = store_code(error)
    if code in _PASSING:
        return False
    if code.isdecimal() and 400 <= int(code) < 500 and code not in _PASSING_STATUS:
        return True
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"):  # of botocore
        return True
    return isinstance(error, OSError) and error.errno in _PERMANENT


def store_code(error: BaseException) -> str:
    """The code in a store's answer, such as "InvalidRange" or "503"; "" where there is none."""
    answer = getattr(error.__cause__ or error, "response", None)  # of botocore: a dictionary
    code = answer.get("Error", {}).get("Code") if isinstance(answer, dict) else getattr(error, "status", "")
    return str(code)


def words(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0][:200]
    return text or type(error).__name__


def _explained(error: Exception) -> StorageError:
    if isinstance(error, StorageError):
        return error
    if isinstance(error, FileNotFoundError):
        return StorageError("no such file; restore it, or check the name", gone=True)
    if isinstance(error, PermissionError) and error.errno is not None:  # of the operating system
        return StorageError(f"access is refused ({words(error)}); change its permissions")
    if isinstance(error, PermissionError) or "Credentials" in type(error).__name__ or store_code(error) in _REFUSED:
        return StorageError(
            f"access is refused ({words(error)}); give the credentials where the store's own tools look for them"
        )
    return StorageError(f"cannot be reached: {words(error)}")
