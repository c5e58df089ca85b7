"""Ends a run on all hosts when a rank is lost, fails or hangs, and says which rank, on which host, doing what.

Every rank beats into the launcher's store: a counter, and how far its training has come. Rank 0 reads all beats,
judges, and writes its own beat and its verdict; the others read these alone. Whoever hears nothing from the other
side for `lost_after` seconds ends itself, so that nothing is left waiting on a host that was cut off.
"""

import faulthandler
import json
import math
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

from pplfast.cluster.meeting import EXIT_LOST, connect_store, joined
from pplfast.cluster.ranks import EveryRankError, OtherRankError, Ranks
from pplfast.errors import Terminated, UserError

BOARD = "board"  # the key that rank 0 writes and the others read
SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOP_LIMIT = 9.0  # seconds from a signal to the end, at the latest, of one rank alone, or once all have been told
REPEATED = 0.5  # seconds after which the same signal again ends at once: a launcher passes one on beside the terminal
LAUNCHER_GRACE = 15.0  # seconds that a rank waits for the verdict once its launcher ends it (it kills after 30)
# What a collective raises when the other side is gone: gloo's and NCCL's errors, and those of the store.
GONE = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "connection refused", "timed out")


class Watchdog:
    """A context around training; `mark` tells it of progress. It takes SIGINT and SIGTERM for a wish to stop, which
    whoever trains looks for, and ends the process itself where that takes too long. With one rank that is all it does.

    lost_after: seconds within which all ranks have ended once one gives no sign of life. stuck_after: the same once one
    makes no progress, though alive: longer than the longest step, checkpoint or start.
    """

    def __init__(
        self, ranks: Ranks, lost_after: float, stuck_after: float, end: Callable[[int], Any] = os._exit
    ) -> None:
        self._ranks, self.lost_after, self._end = ranks, lost_after, end
        self._interval = min(1.0, lost_after / 10)
        # What is left of the time goes to noticing and to telling the others.
        self._silence, self._stillness = lost_after - 6 * self._interval, stuck_after - 6 * self._interval
        self._marks, self._doing = 0, "starting"
        self._failure: dict[str, Any] | None = None
        self._heard = time.monotonic()  # when rank 0's board was last new
        self.stop = 0  # the signal that told this rank to end
        self._told = math.inf  # when
        # A launcher may send SIGTERM to a rank a second time, of itself and whenever it comes to it.
        self._repeatable = (signal.SIGINT,) if "WORLD_SIZE" in os.environ else SIGNALS
        self._leaving = False
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []

    def mark(self, doing: str) -> None:
        """Progress: called by all ranks at the same places."""
        self._marks += 1
        self._doing = doing

    def leave_together(self) -> None:
        """All ranks are about to end, as they were told: what is left has its time."""
        self._leaving = True

    def __enter__(self) -> "Watchdog":
        if threading.current_thread() is not threading.main_thread():
            if self._ranks.world == 1:
                return self  # Python hears signals in the main thread alone
            raise RuntimeError("several ranks train in the main thread of their processes only")
        self._listen()
        if self._ranks.world == 1:
            self._start(self._keep_time_alone)
            return self
        self._store, self._alone = connect_store(), False
        self._main_host = self._store.get(joined(0)).decode()
        self._main_thread = threading.main_thread().ident or 0
        self._start(self._preside if self._ranks.main else self._follow, self._keep_time)
        return self

    def _start(self, *targets: Callable[[], None]) -> None:
        self._threads = [
            threading.Thread(target=target, daemon=True, name=f"watchdog {target.__name__}") for target in targets
        ]
        for thread in self._threads:
            thread.start()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._threads:
            return
        together = (EveryRankError, OtherRankError, KeyboardInterrupt, SystemExit)
        if self._ranks.world > 1 and error is not None and not isinstance(error, together):
            if any(word in str(error).lower() for word in GONE):
                # The other end of a connection is gone: the verdict, in a moment, says whose.
                time.sleep(self.lost_after + 5 * self._interval)
            else:
                self._failure = _describe(error)
                time.sleep(3 * self._interval)  # long enough for rank 0 to read it
        self._closing.set()
        faulthandler.cancel_dump_traceback_later()
        signal.set_wakeup_fd(self._previous_ear)
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        for thread in self._threads:
            thread.join(2 * self._interval)
        if self.stop and error is None:  # told when all was done: what would come next must not begin
            raise Terminated if self.stop == signal.SIGTERM else KeyboardInterrupt

    # Rank 0

    def _preside(self) -> None:
        """Collect the beats and judge. The store lives on this host, or with the launcher's agent."""
        start = time.monotonic()
        hosts = [self._store.get(joined(rank)).decode() for rank in range(self._ranks.world)]
        beats: dict[int, dict[str, Any]] = {
            rank: {"n": 0, "marks": 0, "doing": "starting", "host": host} for rank, host in enumerate(hosts)
        }
        seen, moved = dict.fromkeys(beats, start), dict.fromkeys(beats, start)
        count = 0
        while not self._closing.wait(self._interval):
            count += 1
            for rank in beats:
                beat = self._beat(count) if rank == 0 else self._read(f"beat/{rank}")
                now = time.monotonic()
                if beat is not None and beat["n"] != beats[rank]["n"]:
                    if beat["marks"] != beats[rank]["marks"]:
                        moved[rank] = now
                    beats[rank], seen[rank] = beat, now
            self._heard = time.monotonic()
            verdict = self._judge(beats, seen, moved)
            self._try_set(BOARD, {**beats[0], "verdict": verdict})
            if verdict:
                self._announce(verdict)
                time.sleep(3 * self._interval)  # until the others have read it
                self._stop(verdict)
            if all(beat.get("terminated") for beat in beats.values()):
                self._end_late(STOP_LIMIT)  # told by someone who wants the whole run to end

    def _judge(
        self, beats: dict[int, dict[str, Any]], seen: dict[int, float], moved: dict[int, float]
    ) -> dict[str, Any] | None:
        now = time.monotonic()
        failed = [rank for rank, beat in beats.items() if beat.get("failure")]
        if failed:
            failure = beats[failed[0]]["failure"]
            return {**self._sentence(failed[:1], beats, f"failed: {failure['text']}"), "exit": failure["exit"]}
        # A rank that its launcher has ended is silent for a reason: another one on its host.
        ended = {rank for rank, beat in beats.items() if beat.get("terminated")}
        lost = [rank for rank in beats if rank not in ended and now - seen[rank] > self._patience]
        if lost:
            longest = max(now - seen[rank] for rank in lost)
            return self._sentence(
                lost,
                beats,
                f"gave no sign of life for {longest:.0f} s: killed, or the host is down or cut off",
                doing=True,
            )
        if ended - {0} and all(now - seen[rank] > self._silence for rank in ended - {0}):
            return self._sentence(sorted(ended - {0}), beats, "was ended by its launcher")
        behind = min(beats, key=lambda rank: beats[rank]["marks"])
        if now - moved[behind] > self._stillness:
            stuck = [rank for rank in beats if beats[rank]["marks"] == beats[behind]["marks"]]
            return self._sentence(
                stuck, beats, f"has made no progress for {now - moved[behind]:.0f} s", doing=True, stuck=True
            )
        return None

    def _sentence(
        self, ranks: list[int], beats: dict[int, dict[str, Any]], what: str, doing: bool = False, stuck: bool = False
    ) -> dict[str, Any]:
        names = [f"rank {rank} on {beats[rank]['host']}" for rank in ranks]
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        last = f" (last seen: {beats[ranks[0]]['doing']})" if doing else ""
        return {"ranks": ranks, "stuck": stuck, "exit": EXIT_LOST, "text": f"{shown} {what}{last}"}

    # The other ranks

    def _follow(self) -> None:
        """Beat and read rank 0's board. May block for ever in the network: `_keep_time` does not."""
        count, last = 0, None
        while not self._closing.wait(self._interval):
            count += 1
            self._try_set(f"beat/{self._ranks.rank}", self._beat(count))
            board = self._read(BOARD)
            if board is None or board["n"] == last:
                continue
            last, self._heard = board["n"], time.monotonic()
            if board["verdict"]:
                self._announce(board["verdict"])
                self._stop(board["verdict"])
            if board["terminated"]:
                self._end_late(STOP_LIMIT)

    # All ranks

    def _keep_time(self) -> None:
        """Does no input or output, so that it cannot block."""
        while not self._closing.wait(self._interval):
            # Should the interpreter itself stand still, this ends the process from outside of it.
            faulthandler.dump_traceback_later(2 * self.lost_after + 10, exit=True)
            silence = time.monotonic() - self._heard
            if silence > self._patience and not self._ranks.main:
                verdict = {
                    "ranks": [0],
                    "stuck": False,
                    "exit": EXIT_LOST,
                    "text": f"rank 0 on {self._main_host} gave no sign of life for {silence:.0f} s to rank "
                    f"{self._ranks.rank} on {socket.gethostname()}: killed, or a host is down or cut off",
                }
                self._announce(verdict)
                self._stop(verdict)
            self._hear()
            self._end_late(LAUNCHER_GRACE)

    def _keep_time_alone(self) -> None:
        while not self._closing.wait(self._interval / 5):
            self._hear()
            self._end_late(STOP_LIMIT)

    @property
    def _patience(self) -> float:
        """Once the launcher ends this rank, something has happened on this host: who is silent now is the cause."""
        return self._silence if self._leaving or not self.stop else min(self._silence, 4 * self._interval)

    def _announce(self, verdict: dict[str, Any]) -> None:
        if verdict["stuck"] and self._ranks.rank in verdict["ranks"]:
            frame = sys._current_frames().get(self._main_thread)
            stack = "".join(traceback.format_stack(frame)[-12:]) if frame else ""
            print(f"rank {self._ranks.rank} on {socket.gethostname()} stands here:\n{stack}", file=sys.stderr)
        local = 1 if verdict["ranks"] == [0] and self._ranks.rank == 1 else 0  # rank 0 is in no state to speak
        if self._ranks.main or os.environ.get("LOCAL_RANK") == str(local):  # once per host
            print(
                f"pplfast: error: {verdict['text']}; this run ends on all hosts; start it again with --resume to "
                f"continue from the last checkpoint",
                file=sys.stderr,
            )
        sys.stderr.flush()

    def _stop(self, verdict: dict[str, Any]) -> None:
        if self._failure is None:  # else the main thread is about to end with the error itself
            self._end(verdict["exit"])

    def _beat(self, count: int) -> dict[str, Any]:
        return {
            "n": count,
            "marks": self._marks,
            "doing": self._doing,
            "host": socket.gethostname(),
            "failure": self._failure,
            "terminated": self.stop > 0,
        }

    def _try_set(self, key: str, value: dict[str, Any]) -> None:
        if not self._alone:
            try:
                self._store.set(key, json.dumps(value))
            except RuntimeError:
                self._alone = True  # the store is gone with rank 0, which silence will show

    def _read(self, key: str) -> dict[str, Any] | None:
        value: dict[str, Any] | None = None
        if not self._alone:
            try:
                value = json.loads(self._store.get(key)) if self._store.check([key]) else None
            except RuntimeError:
                self._alone = True
        return value

    def _listen(self) -> None:
        """A rank that waits in a collective cannot run a signal handler of Python; but its number arrives here. What
        whoever started this wants ignored (nohup) stays so."""
        self._ear, mouth = socket.socketpair()
        self._ear.setblocking(False)
        mouth.setblocking(False)
        self._mouth = mouth
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._previous_handlers = {number: signal.signal(number, lambda *_: None) for number in heard}
        self._previous_ear = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)

    def _hear(self) -> None:
        try:
            numbers = self._ear.recv(64)
        except BlockingIOError:
            return
        now = time.monotonic()
        for number in numbers:
            if number in SIGNALS and not self.stop:
                self._told, self.stop = now, number
                if self._ranks.main:
                    print("stopping after this step (once more: at once)", file=sys.stderr, flush=True)
            elif number == self.stop and now - self._told > REPEATED and number in self._repeatable:
                self._end(128 + number)

    def _end_late(self, limit: float) -> None:
        if not self._leaving and time.monotonic() - self._told > limit:
            if self._ranks.main:
                print(
                    "pplfast: ended by a signal before the step was done; the last checkpoint is where it goes on",
                    file=sys.stderr,
                    flush=True,
                )
            self._end(128 + self.stop)


def _describe(error: BaseException) -> dict[str, Any]:
    """A bad image or setting stays bad: its exit code says that starting again does not help."""
    if isinstance(error, UserError):
        return {"text": str(error), "exit": error.exit_code}
    lines = str(error).splitlines() or [""]
    return {"text": f"{type(error).__name__}: {lines[0]}", "exit": 1}
