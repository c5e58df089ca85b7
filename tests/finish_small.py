"""What worker processes of the tests do. Without torch, which would take each of them longer than its work."""

from dataclasses import dataclass

from pplfast.jobs.job import Finish, Finished


@dataclass
class FinishMean(Finish):
    """sample: whether the image goes into a shard."""

    suffixes: tuple[str, ...]
    sample: bool

    def __call__(self, payload) -> Finished:
        path, text = payload
        files = {suffix: text.encode() for suffix in self.suffixes}
        return Finished(files, {".jpg": path.read_bytes(), ".png": text.encode()} if self.sample else {})
