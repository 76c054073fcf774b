"""Data sets in COCO format."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, ClassVar

from mmengine.logging import print_log

from lumen.data.annotations import format_report, read_coco
from lumen.data.node_dataset import NodeDataset
from lumen.errors import DataError
from lumen.paths import find_path
from lumen.registry import DATASETS
from lumen.structures import Field

UNREADABLE = "image cannot be used"
_CHECK = "lumen check-data"


@DATASETS.register_module()
class CocoDataset(NodeDataset):
    """Images, boxes and, if asked for, masks of a COCO-format file; a sample is one image.

    The pipeline receives a record of ``CocoFile.records`` with ``classes``, ``img_root`` and ``sample_idx`` added.
    ``metainfo`` holds ``classes`` and ``cat_ids``, in the same order, in test mode also ``ann_file``. ``report`` maps
    the reason of each skip to the ids it concerns; a worker of a data loader counts unusable images in a copy of it.

    A subclass that adds arrays to ``instances`` declares them in ``fields``, so that they move with the image.

    Args:
        ann_file: COCO-format json, relative to ``data_root``.
        data_root: Folder of the data set.
        data_prefix: ``img`` is the image folder, relative to ``data_root``. No image may lie outside it.
        pipeline: Transforms applied to each record.
        classes: Names to keep, in this order; ``None`` keeps the categories of the file in their order.
        with_masks: Read ``segmentation`` too; an annotation without a sound one is skipped.
        federated: The file states per image which classes were verified, as LVIS does: only classes that are verified
            absent count as absent, and incompletely annotated ones have no background. ``AskClasses`` must be given
            ``num_prompts`` in training, since asking for all asks for unverified classes as well.
        filter_empty: Leave out images without any kept annotation.
        skip_budget: Share of the images, and of the annotations, that may be skipped before it is an error.
        test_mode: Give a grey image with a ``fault`` in place of an unusable one, instead of taking the next one.

    Raises:
        DataError: The file is not a COCO file, lacks a class, holds no usable image, or the budget is exceeded.
    """

    fields: ClassVar[Mapping[str, Field]] = MappingProxyType({})

    def __init__(
        self,
        *,
        ann_file: str,
        data_root: str = "",
        data_prefix: Mapping[str, str] | None = None,
        pipeline: Sequence[dict | Callable[[dict], dict]] = (),
        classes: Sequence[str] | None = None,
        with_masks: bool = False,
        federated: bool = False,
        filter_empty: bool = False,
        skip_budget: float = 0.001,
        test_mode: bool = False,
    ) -> None:
        self._asked_classes = None if classes is None else tuple(classes)
        self.with_masks = with_masks
        self.federated = federated
        self.filter_empty = filter_empty
        self.skip_budget = skip_budget
        self.report: dict[str, list[int]] = {}
        super().__init__(
            ann_file=str(ann_file),
            data_root=find_path(data_root) if data_root else "",
            data_prefix={"img": ""} if data_prefix is None else dict(data_prefix),
            pipeline=list(pipeline),
            test_mode=test_mode,
        )

    def full_init(self) -> None:
        """Read the files, once; an error names the command that lists everything that is wrong with them."""
        # Every error of the files ends with the command that lists all of them.
        with naming_check_data(self.ann_file, self.data_prefix["img"]):
            super().full_init()

    def load_data_list(self) -> list[dict]:
        """Read and check the annotation file; MMEngine calls this once."""
        content = read_coco(
            self.ann_file,
            image_root=self.data_prefix["img"],
            classes=self._asked_classes,
            skip_budget=self.skip_budget,
            with_masks=self.with_masks,
            federated=self.federated,
        )
        # Metrics read both, in the order of the labels.
        self._metainfo.update(classes=content.classes, cat_ids=content.cat_ids)
        if self.test_mode:  # only there: MMEngine joins training sets of equal metainfo alone
            self._metainfo["ann_file"] = self.ann_file
        self.report = dict(content.report)
        if self.report:
            print_log(f"{self.ann_file}: skipped or changed\n{format_report(self.report)}", logger="current")
        return content.records

    def filter_data(self) -> list[dict]:
        """Leave out empty images if asked to; MMEngine calls this once."""
        records = [r for r in self.data_list if len(r["instances"]["labels"]) or not self.filter_empty]
        if not records:
            raise DataError(f"{self.ann_file}: no usable image; filter_empty is {self.filter_empty}")
        return records

    def prepare_data(self, index: int) -> Any:
        """Run the pipeline on one record."""
        record = self.get_data_info(index)
        # Per sample, not per record: the same for all, and not stored with each.
        record["classes"] = self._metainfo["classes"]
        record["img_root"] = self.data_prefix["img"]
        record["fields"] = self.fields
        record["test_mode"] = self.test_mode
        return self.pipeline(record)

    def __getitem__(self, index: int) -> Any:
        """Return a sample; when training, the next usable one, within ``skip_budget``."""
        with naming_check_data(self.ann_file, self.data_prefix["img"]):
            return take_usable(self, index)

    def get_cat_ids(self, index: int) -> list[int]:
        """Return the labels of one image, for MMEngine's ``ClassBalancedDataset``."""
        return self.get_data_info(index)["instances"]["labels"].tolist()


@contextmanager
def naming_check_data(ann_file: str, image_root: str) -> Iterator[None]:
    """Add to a ``DataError`` the command that lists everything that is wrong with a data set."""
    try:
        yield
    except DataError as error:
        # Nested calls: the command is named once.
        if _CHECK in str(error):
            raise
        images = f" --images {image_root}" if image_root else ""
        raise DataError(f"{error}. Everything that is wrong: {_CHECK} {ann_file}{images}") from error


def take_usable(dataset: NodeDataset, index: int) -> Any:
    """Return a prepared sample, or, when training, the next one that can be used, within the data set's budget.

    In an evaluation every sample is asked: ``LoadImage`` puts a grey image in place of one that cannot be used. When
    training, unusable images are counted in ``dataset.report``.

    Args:
        dataset: A data set with ``report`` and ``skip_budget``, such as ``CocoDataset``.
        index: Where to start.

    Raises:
        DataError: In test mode at the first unusable annotation, else when the budget is exceeded.
    """
    dataset.full_init()
    if dataset.test_mode:
        return dataset.prepare_data(index)
    # The next sample in the file's order, so that the same run reads the same samples again.
    for offset in range(len(dataset)):
        try:
            return dataset.prepare_data((index + offset) % len(dataset))
        except DataError as error:
            _count_unusable(dataset, (index + offset) % len(dataset), error)
    raise DataError(f"{dataset.ann_file}: not one image can be used\n{format_report(dataset.report)}")


def _count_unusable(dataset: NodeDataset, index: int, error: DataError) -> None:
    img_id = dataset.get_data_info(index)["img_id"]
    unusable = dataset.report.setdefault(UNREADABLE, [])
    # An image that comes round again is not a second fault.
    if img_id in unusable:
        return
    unusable.append(img_id)
    print_log(f"{dataset.ann_file}: image {img_id} is skipped: {error}", logger="current")
    if len(unusable) > dataset.skip_budget * len(dataset):
        raise DataError(
            f"{dataset.ann_file}: {len(unusable)} of {len(dataset)} images cannot be used, the budget is "
            f"{dataset.skip_budget:.3%}; the last: {error}"
        ) from error
