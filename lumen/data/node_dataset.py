"""Annotations in memory once per node, however many processes train there.

MMEngine keeps the records of a data set as pickled bytes in one array, which the workers of a process share. With
several processes on a node the first of them reads the annotation file; the others map its array into their memory.
"""

import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.dist import all_gather_object, barrier, get_rank, get_world_size

from lumen.errors import DataError, LumenError

_OWN = frozenset({"pipeline", "data_list", "data_bytes", "data_address"})


class NodeDataset(BaseDataset):
    """A data set whose annotation file is read by one process of each node.

    All processes must build their data sets in the same order, since they meet while a file is read. The bytes travel
    through a file in the folder for temporary files, which only this user may read and which is gone before the first
    sample is drawn; the memory stays.

    Raises:
        DataError: The process that reads the file found it unusable; each process of the node raises.
    """

    def full_init(self) -> None:
        """Read the annotation file, or map what another process of this node has read; once."""
        if self._fully_initialized or get_world_size() == 1:
            super().full_init()
            return
        # The first rank of each host reads; hosts do not share memory.
        hosts = all_gather_object(socket.gethostname())
        leader = hosts.index(hosts[get_rank()])
        with tempfile.TemporaryDirectory(prefix="lumen-") as folder:
            offered = self._read_for_others(Path(folder)) if leader == get_rank() else None
            # Paths and small things only: the bytes themselves stay in the files.
            answer = all_gather_object(offered)[leader]
            if leader != get_rank() and isinstance(answer, dict):
                vars(self).update(answer["state"])
                # Samples are read from the bytes alone.
                self.data_list = []
                self.data_bytes = np.load(answer["bytes"], mmap_mode="r")
                self.data_address = np.load(answer["address"], mmap_mode="r")
            # Mapped files stay readable after their names are removed.
            barrier()  # the folder is removed once every process has mapped its files
        if not isinstance(answer, dict):
            raise DataError(answer)

    def _read_for_others(self, folder: Path) -> dict[str, Any] | str:
        """Read the file and return what the others need, or what is wrong with it."""
        paths = {"bytes": os.fspath(folder / "bytes.npy"), "address": os.fspath(folder / "address.npy")}
        # A fault is raised by every process of the node, so that none waits for another.
        try:
            super().full_init()
            np.save(paths["bytes"], self.data_bytes)
            np.save(paths["address"], self.data_address)
            # The reading process maps the file as well, so that the node holds the bytes once.
            self.data_bytes = np.load(paths["bytes"], mmap_mode="r")
        except LumenError as error:
            return str(error)
        except (OSError, MemoryError) as error:  # a full disk, or too little memory
            return f"{self.ann_file} cannot be shared by the processes of a node ({type(error).__name__}: {error})"
        return {**paths, "state": {name: value for name, value in vars(self).items() if name not in _OWN}}
