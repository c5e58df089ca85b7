"""A trace of some training steps by torch.profiler: which operations ran when, on the host and on the device."""

import gzip
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from torch.profiler import ProfilerActivity, profile, schedule

from pplfast.cluster.ranks import Ranks, together
from pplfast.errors import explain_os_error
from pplfast.files import atomic_path

FOLDER = "profile"
WARM_UP = 5  # steps before the traced ones: allocations, choice of kernels, the profiler's own start


class StepProfiler:
    """Traces `steps` optimizer steps of this session behind WARM_UP others, into folder/rank<r>.pt.trace.json.gz of
    each rank: one that the others wait for shows only beside them. A context around all steps; with steps = 0 nothing
    happens. What is computed does not change; the traced steps take longer. say: told where the trace is.

    Called by all ranks alike. Raises UserError on all of them if one cannot write.
    """

    def __init__(self, folder: Path, steps: int, ranks: Ranks, say: Callable[[str], None]) -> None:
        self._path = folder / f"rank{ranks.rank}.pt.trace.json.gz"
        self._steps, self._ranks, self._say = steps, ranks, say
        self._profile: profile | None = None
        self._done = 0  # steps
        self._written = False

    def __enter__(self) -> "StepProfiler":
        if self._steps:
            activities = [ProfilerActivity.CPU]
            if self._ranks.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # two lines of its library's on stderr otherwise
            plan = schedule(wait=WARM_UP - 1, warmup=1, active=self._steps, repeat=1)
            self._profile = profile(
                activities=activities, schedule=plan, on_trace_ready=self._write, record_shapes=True
            )
            self._profile.start()
        return self

    def step(self) -> None:
        """An optimizer step is done."""
        if self._profile is not None:
            self._done += 1
            self._profile.step()
            if self._written:
                self._stop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._profile is None:
            return
        # An error: the other ranks may be elsewhere, and nothing can be done together any more.
        if kind is not None or self._done <= WARM_UP:
            self._profile.on_trace_ready = None
        self._stop()  # writes the steps that it has
        if kind is None and not self._written:
            self._say(f"no profile: there were not more than the {WARM_UP} steps that come before one")

    def _stop(self) -> None:
        assert self._profile is not None
        self._profile.stop()
        self._profile = None

    def _write(self, recorded: profile) -> None:
        self._written = True
        together(self._ranks, lambda: _export(recorded, self._path))
        whose = "" if self._ranks.world == 1 else f", and one of each of the {self._ranks.world} ranks beside it"
        self._say(f"profile: {self._path}{whose}; open it at https://ui.perfetto.dev")


def _export(recorded: profile, path: Path) -> None:
    """Packed here: by the profiler itself only under a name that ends in .gz, which a temporary one does not."""
    try:
        with tempfile.TemporaryDirectory(prefix="pplfast-profile-") as folder:
            plain = Path(folder) / "trace.json"
            recorded.export_chrome_trace(str(plain))
            with atomic_path(path) as temporary, open(plain, "rb") as source, gzip.open(temporary, "wb") as target:
                shutil.copyfileobj(source, target)
    except OSError as error:
        raise explain_os_error(error, path) from error
