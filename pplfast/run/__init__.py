"""The whole chain as steps that are done once: a run folder with labels, scores and a report."""

from pplfast.run.chain import run
from pplfast.run.config import RunConfig, with_default_lists
from pplfast.run.seeds import run_seeds
from pplfast.run.table import closing, seeds_closing

__all__ = ["RunConfig", "closing", "run", "run_seeds", "seeds_closing", "with_default_lists"]
