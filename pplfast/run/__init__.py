"""The whole chain as steps that are done once: a run folder with labels, scores and a report."""

from pplfast.run.chain import run
from pplfast.run.config import RunConfig, with_default_lists
from pplfast.run.seeds import run_seeds
from pplfast.run.table import chain_table, seeds_table, summary_table

__all__ = ["RunConfig", "chain_table", "run", "run_seeds", "seeds_table", "summary_table", "with_default_lists"]
