"""Any data set of mmdet as a source of Lumen's samples."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from lumen.data.annotations import check_budget, format_report
from lumen.data.coco import take_usable
from lumen.data.node_dataset import NodeDataset
from lumen.errors import ConfigError, DataError
from lumen.interop.mmdet.library import mmdet_scope, read_part
from lumen.interop.mmdet.records import RecordReader
from lumen.interop.mmdet.sources import leaves_of, read_source
from lumen.registry import DATASETS


@DATASETS.register_module()
class MMDetDataset(NodeDataset):
    """The images and objects of a data set class of mmdet, with the settings that mmdet takes; a sample is one image.

    mmdet reads the files; its transforms are left out, and Lumen's ``pipeline`` gets the records that
    ``CocoDataset`` gives. A set whose settings say ``test_mode=True`` is one for evaluation: mmdet leaves nothing out,
    an unusable image is grey, and samples carry the ``annotation`` that ``MMDetMetric`` hands to mmdet's metrics.

    - Crowd regions, ignored and difficult objects and groups (OpenImages) are ignored regions. One that belongs to no
      class, as in CrowdHuman, is ignored for every class.
    - LVIS and OpenImages: only classes that are verified absent count as absent, so ``AskClasses`` must be given
      ``num_prompts`` in training.
    - ODVG without a label map: the records have ``refs``, which ``AskSentences`` asks.
    - Labels of COCO files follow ``classes`` by name; mmdet's follow the order of the file.
    - Boxes are mmdet's: those of VOC end a pixel early.

    ``metainfo`` is mmdet's, with ``classes``; of one COCO file also ``cat_ids`` and, in test mode, ``ann_file``, so
    that Lumen's ``CocoMetric`` can be used as well.

    Args:
        dataset: Settings of the data set, wrappers such as ``ConcatDataset`` included, with ``type``.
        config: In place of ``dataset``: a config file of mmdet, which is run as Python code and stays as it is; with
            ``mmdet::`` in front one that mmdet ships, such as ``mmdet::_base_/datasets/voc0712.py``.
        loader: Which loader of ``config`` holds the data set.
        pipeline: Lumen's transforms, applied to each record.
        with_masks: Read masks too; an object without a sound one is skipped.
        skip_budget: Share of the images, and of the objects, that may be skipped before it is an error.

    Raises:
        ConfigError: mmdet is not installed, there is no such class, or the settings do not fit it.
        DataError: Files cannot be read, name no classes, or hold what Lumen cannot take, or the budget is exceeded.
    """

    foreign_settings = frozenset({"dataset"})
    """Arguments that hold settings of another library, which Lumen does not fill in."""

    def __init__(
        self,
        *,
        dataset: Mapping[str, Any] | None = None,
        config: str | None = None,
        loader: str = "train_dataloader",
        pipeline: Sequence[dict | Callable[[dict], dict]] = (),
        with_masks: bool = False,
        skip_budget: float = 0.001,
    ) -> None:
        if (dataset is None) == (config is None):
            raise ConfigError("MMDetDataset takes dataset, the settings of mmdet, or config, a file that holds them")
        self._config = config
        self._settings = dict(dataset if config is None else _dataset_of(config, loader))
        self.with_masks = with_masks
        self.skip_budget = skip_budget
        self.report: dict[str, list[Any]] = {}
        modes = {bool(leaf.get("test_mode", False)) for leaf in leaves_of(self._settings)}
        if len(modes) > 1:
            raise ConfigError("the parts of a data set must all have test_mode=True, or none of them")
        super().__init__(data_prefix={"img": ""}, pipeline=list(pipeline), test_mode=modes.pop())

    def load_data_list(self) -> list[dict]:
        """Let mmdet read the files, and check what it gives; MMEngine calls this once."""
        with mmdet_scope("MMDetDataset"):
            source = read_source(self._settings)
        self.ann_file = source.ann_file
        self.data_prefix = {"img": _common_folder(source.prefixes)}
        self._metainfo.update(source.metainfo)
        if self.test_mode:
            self._metainfo["ann_file"] = self.ann_file
            if self._config is not None:
                self._metainfo["mmdet_config"] = self._config
        reader = RecordReader(source.metainfo["classes"], with_masks=self.with_masks, federated=source.federated)
        records = [reader.read(info, place) for place, info in enumerate(source.records)]
        if self.test_mode:
            records = [record | {"annotation": info} for record, info in zip(records, source.records, strict=True)]
        check_budget(reader.report, reader.num_objects, self.skip_budget, f"{self.ann_file}: objects")
        self.report = dict(reader.report)
        if self.report:
            print_log(f"{self.ann_file}: skipped\n{format_report(self.report)}", logger="current")
        return records

    def filter_data(self) -> list[dict]:
        """Return all records: mmdet has filtered already; MMEngine calls this once."""
        if not self.data_list:
            raise DataError(f"{self.ann_file}: mmdet gives no image; see filter_cfg of its settings")
        return self.data_list

    def prepare_data(self, index: int) -> Any:
        """Run the pipeline on one record."""
        record = self.get_data_info(index)
        record["classes"] = self._metainfo["classes"]
        record["img_root"] = self.data_prefix["img"]
        record["test_mode"] = self.test_mode
        return self.pipeline(record)

    def __getitem__(self, index: int) -> Any:
        """Return a sample; when training, the next usable one, within ``skip_budget``."""
        return take_usable(self, index)

    def get_cat_ids(self, index: int) -> list[int]:
        """Return the labels of one image, for MMEngine's ``ClassBalancedDataset``."""
        return self.get_data_info(index)["instances"]["labels"].tolist()


def _dataset_of(config: str, loader: str) -> Mapping[str, Any]:
    found = read_part(config, loader).get("dataset")
    if not isinstance(found, Mapping):
        raise ConfigError(f"{config}: {loader} has no dataset")
    return found


def _common_folder(folders: Sequence[str]) -> str:
    """Return the folder that holds all image folders: no image may lie outside it."""
    return str(Path(os.path.commonpath([os.path.abspath(folder) for folder in folders])))
