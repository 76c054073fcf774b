"""Any metric of mmdet on Lumen's answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric

from lumen.errors import ConfigError, DataError, named_faults
from lumen.interop.mmdet.library import build, mmdet_scope, name_of, read_part, with_found_paths
from lumen.metrics.coco.metric import checked_answer
from lumen.registry import METRICS

_NEEDS = frozenset({"bboxes", "scores", "labels"})


@METRICS.register_module()
class MMDetMetric(BaseMetric):
    """Metrics of mmdet, with the settings that mmdet takes; figures have mmdet's names and rounding.

    Metrics that read annotations from samples, such as ``VOCMetric``, need ``MMDetDataset`` in test mode;
    ``CocoMetric`` with ``ann_file`` takes answers to any data set. Equal answers to several prompts for
    one class count once.

    Args:
        metric: Settings of a metric, with ``type``, or a list of such. When left out those of the config that the
            evaluated ``MMDetDataset`` was given.
        evaluator: Which setting of that config holds the metrics.

    Raises:
        ConfigError: mmdet is not installed, there is no such metric, or the settings do not fit it.
    """

    default_prefix = "mmdet"
    needs = _NEEDS

    def __init__(
        self,
        *,
        metric: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        evaluator: str = "val_evaluator",
    ) -> None:
        super().__init__()
        self._evaluator = evaluator
        self._metrics: list[Any] = []
        self.protocol: dict[str, Any] = {}
        if metric is not None:
            self._build(metric)

    def _build(self, metric: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        settings = [with_found_paths(one) for one in ([metric] if isinstance(metric, Mapping) else metric)]
        with mmdet_scope("MMDetMetric"):
            self._metrics = [_build(one) for one in settings]
        if any("segm" in getattr(each, "metrics", ()) for each in self._metrics):
            self.needs = _NEEDS | {"masks"}
        self.protocol = {"mmdet": [{key: str(value) for key, value in one.items()} for one in settings]}

    @property
    def dataset_meta(self) -> dict[str, Any] | None:
        """Metainfo of the data set that is evaluated."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict[str, Any]) -> None:
        if not meta or not meta.get("classes"):
            raise DataError("metrics of mmdet need 'classes' in dataset_meta, the names of a data set's labels")
        self._dataset_meta = meta
        if not self._metrics:
            if "mmdet_config" not in meta:
                raise ConfigError("MMDetMetric needs metric, or an MMDetDataset with config, whose metrics it takes")
            self._build(read_part(meta["mmdet_config"], self._evaluator))
        for metric in self._metrics:
            metric.dataset_meta = meta
            _number_by_name(metric, meta["classes"])

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Hand the answers to some samples to each metric.

        Args:
            data_batch: Not used.
            data_samples: Dicts with ``img_id``, ``ori_shape``, ``pred_instances`` in original pixels and, of
                ``MMDetDataset``, ``annotation``.

        Raises:
            DataError: An answer is not what an evaluation takes, or a metric lacks something in a sample.
        """
        samples = [_as_mmdet_reads(sample, self.needs, len(self.dataset_meta["classes"])) for sample in data_samples]
        for metric in self._metrics:
            fault = f"{type(metric).__name__} of mmdet cannot read a sample"
            remedy = "evaluate an MMDetDataset with test_mode=True, whose samples carry mmdet's annotation"
            with mmdet_scope("MMDetMetric"), named_faults(fault, DataError, remedy=remedy):
                metric.process(data_batch, samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Not called: each metric of mmdet collects its own results."""
        raise NotImplementedError("metrics of mmdet compute their own figures; call evaluate")

    def evaluate(self, size: int) -> dict[str, float]:
        """Return the figures of all metrics.

        Args:
            size: Number of samples of the data set.

        Raises:
            DataError: A metric of mmdet fails, or two give a figure of one name.
        """
        figures: dict[str, float] = {}
        for metric in self._metrics:
            fault, remedy = f"{type(metric).__name__} of mmdet fails", "see whether its settings fit the data set"
            with mmdet_scope("MMDetMetric"), named_faults(fault, DataError, remedy=remedy):
                found = metric.evaluate(size)
            if figures.keys() & found.keys():
                raise DataError(f"two metrics give {sorted(figures.keys() & found.keys())}: set prefix of one of them")
            figures |= {name: float(value) for name, value in found.items()}
        return figures


def _build(settings: Mapping[str, Any]) -> Any:
    from mmdet.registry import METRICS as MMDET_METRICS

    if name_of(settings) == "LVISMetric" and not hasattr(np, "float"):
        raise ConfigError(
            "LVISMetric computes with lvis 0.5.3, which does not run with numpy 2: use lumen.metrics.coco.metric."
            "CocoMetric with federated=True, whose figures are LVIS's"
        )
    return build(MMDET_METRICS, settings, "metric")


def _number_by_name(metric: Any, classes: Sequence[str]) -> None:
    """Let a metric on a COCO file number its categories by ``classes``: it would in the order of the file.

    Raises:
        DataError: The file lacks a class.
        ConfigError: Figures per class are asked for, which mmdet would give under wrong names.
    """
    truth = getattr(metric, "_coco_api", None)
    if truth is None:
        return
    id_of_name = {category["name"]: cat_id for cat_id, category in truth.cats.items()}
    missing = [name for name in classes if name not in id_of_name]
    if missing:
        raise DataError(
            f"the annotation file of {type(metric).__name__} lacks {missing[:5]} ({len(missing)} of {len(classes)} "
            "classes of the data set); evaluate with the annotation file of the data set"
        )
    metric.cat_ids = [id_of_name[name] for name in classes]
    if getattr(metric, "classwise", False) and metric.cat_ids != sorted(metric.cat_ids):
        raise ConfigError(
            "mmdet gives classwise figures in the order of category ids: list the data set's classes in that order, "
            f"{sorted(classes, key=id_of_name.get)[:10]}, or use Lumen's CocoMetric"
        )


def _as_mmdet_reads(sample: Mapping[str, Any], needs: frozenset[str], num_classes: int) -> dict[str, Any]:
    """Return a sample as mmdet's metrics take it: answers as tensors and, where known, annotations in two forms."""
    answer = checked_answer(sample, needs, num_classes)
    predictions = {name: torch.from_numpy(answer[name]) for name in sorted(needs - {"masks"})}
    if "masks" in needs:
        predictions["masks"] = answer["masks"]
    about = {"img_id": sample["img_id"], "ori_shape": tuple(sample["ori_shape"]), "pred_instances": predictions}
    info = sample.get("annotation")
    if info is None:
        return about
    # OpenImagesMetric knows one of the two names that its data sets use.
    instances = [
        {**one, "is_group_of": one["is_group_ofs"]} if "is_group_ofs" in one else dict(one) for one in info["instances"]
    ]
    kept = [one for one in instances if not one.get("ignore_flag")]
    ignored = [one for one in instances if one.get("ignore_flag")]
    tables = {"gt_instances": _table(kept), "ignored_instances": _table(ignored)}
    return {**info, "instances": instances, **tables, **about}


def _table(instances: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    boxes = np.array([one["bbox"] for one in instances], dtype=np.float32).reshape(-1, 4)
    labels = np.array([one["bbox_label"] for one in instances], dtype=np.int64)
    return {"bboxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)}
