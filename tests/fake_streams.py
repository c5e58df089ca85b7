"""torch.cuda's streams without a GPU: they record who did what where. Tensors "on cuda:0" are copies on the CPU."""

import threading
import weakref
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from pplfast.data import pipelines

GPU = torch.device("cuda", 0)


@dataclass(frozen=True)
class Event:
    thread: str
    what: str  # "transfer", "from DALI", "released", "synchronize", "record_stream"
    stream: str = ""  # the current one; of synchronize the one waited for, of record_stream the consumer
    storage: int = 0
    pinned: bool = False
    blocking: bool = False


@dataclass
class FakeStreams:
    events: list[Event] = field(default_factory=list)
    made: list["FakeStream"] = field(default_factory=list)

    def __post_init__(self):
        self.default, self._local = FakeStream("default", self), threading.local()

    def current(self, device=None):
        return getattr(self._local, "stream", self.default)

    def new(self, device=None):
        self.made.append(FakeStream(f"own {len(self.made)}", self))
        return self.made[-1]

    @contextmanager
    def use(self, stream):
        before, self._local.stream = self.current(), stream
        try:
            yield
        finally:
            self._local.stream = before

    def note(self, what, tensor=None, stream=None, **more):
        storage = tensor.untyped_storage().data_ptr() if tensor is not None else 0
        self.events.append(
            Event(threading.current_thread().name.split("_")[0], what, (stream or self.current()).name, storage, **more)
        )

    def of(self, what, thread=None):
        return [event for event in self.events if event.what == what and thread in (None, event.thread)]


@dataclass
class FakeStream:
    name: str
    log: FakeStreams

    def synchronize(self):
        self.log.note("synchronize", stream=self)


def install(monkeypatch) -> FakeStreams:
    """DALI's pipelines stay on the CPU; all that torch is told to do for cuda:0 is recorded."""
    log, pinned = FakeStreams(), set()
    to, clone, from_dlpack, options = torch.Tensor.to, torch.Tensor.clone, torch.from_dlpack, pipelines.pipeline_options

    def fake_pin(tensor):
        copy = clone(tensor)
        pinned.add(id(copy))
        weakref.finalize(copy, pinned.discard, id(copy))
        return copy

    def fake_to(tensor, *args, **kwargs):
        if not any(isinstance(word, torch.device) and word.type == "cuda" for word in args):
            return to(tensor, *args, **kwargs)
        log.note("transfer", tensor, pinned=id(tensor) in pinned, blocking=not kwargs.get("non_blocking", False))
        return clone(tensor)

    def fake_dlpack(capsule):
        tensor = from_dlpack(capsule)
        log.note("from DALI", tensor)
        weakref.finalize(tensor, log.note, "released")
        return tensor

    monkeypatch.setattr(torch.cuda, "Stream", log.new)
    monkeypatch.setattr(torch.cuda, "current_stream", log.current)
    monkeypatch.setattr(torch.cuda, "stream", log.use)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: log.default.synchronize())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: log.note("record_stream", tensor, stream))
    monkeypatch.setattr(torch.Tensor, "pin_memory", fake_pin)
    monkeypatch.setattr(torch.Tensor, "to", fake_to)
    monkeypatch.setattr(torch, "from_dlpack", fake_dlpack)
    monkeypatch.setattr(
        pipelines,
        "pipeline_options",
        lambda batch_size, threads, device: options(batch_size, threads, torch.device("cpu")),
    )
    return log
