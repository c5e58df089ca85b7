"""The index of a data set in shards: which images there are, where each lies in its shard, and its labels.

One file in Arrow's IPC format, of which nothing is read but what is asked for. A row for each image, grouped by shard;
what holds for all of them stands in the schema's metadata.

    shard_rows.py      the columns, and the rows of one shard
    tar_shards.py      rows of a tar, as WebDataset defines samples
    parquet_shards.py  rows of a Parquet file with image bytes
    parquet_pages.py   what a Parquet file says of itself, checked before it is read
    list_files.py      list files, of shards or of images
    list_rows.py       rows of a list of images
    shard_labels.py    what a sample's members or cells say of its labels
    shard_names.py     names of shards, of which ids are made
    shard_build.py     making the index
    shard_open.py      opening and checking it
    shard_images.py    what it then gives
"""

from pplfast.data.shard_build import Indexed, build_index, build_list_index
from pplfast.data.shard_images import ShardIndex
from pplfast.data.shard_names import Shard
from pplfast.data.shard_open import open_index
from pplfast.data.shard_places import INDEX

__all__ = ["INDEX", "Indexed", "Shard", "ShardIndex", "build_index", "build_list_index", "open_index"]
