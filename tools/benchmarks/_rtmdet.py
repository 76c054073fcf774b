"""RTMDet-tiny of mmdet with random weights, and one training step of it that wastes no CPU time."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

_STRIDES = [8, 16, 32]


class Detector(nn.Module):
    """mmdet's backbone, neck and head, from records of ``CocoDataset`` to losses or boxes in input pixels.

    The convolutions run in bfloat16 and channels last; assignment, losses and boxes in float32.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        from mmdet.models import CSPNeXt, CSPNeXtPAFPN, RTMDetSepBNHead

        norm, act = {"type": "BN"}, {"type": "SiLU", "inplace": True}
        self.backbone = CSPNeXt(
            "P5", deepen_factor=0.167, widen_factor=0.375, channel_attention=True, norm_cfg=norm, act_cfg=act
        )
        self.neck = CSPNeXtPAFPN([96, 192, 384], 96, num_csp_blocks=1, expand_ratio=0.5, norm_cfg=norm, act_cfg=act)
        self.head = RTMDetSepBNHead(
            num_classes,
            96,
            feat_channels=96,
            stacked_convs=2,
            exp_on_reg=False,
            share_conv=True,
            with_objectness=False,
            norm_cfg=norm,
            act_cfg=act,
            **_head_parts(),
        )
        # mmdet's initialisation; without it the first loss is thousands of times larger, and what is learnt worthless.
        for part in (self.backbone, self.neck, self.head):
            part.init_weights()
        self.to(memory_format=torch.channels_last)

    def forward(self, records: Sequence[dict[str, Any]]) -> tuple[list[Tensor], list[Tensor]]:
        """Return class logits and side distances, level by level."""
        pixels = torch.stack([torch.from_numpy(record["image"]) for record in records]).permute(0, 3, 1, 2)
        with torch.autocast("cpu", torch.bfloat16):
            scores, distances = self.head(self.neck(self.backbone((pixels.float() - 114.0) / 57.0)))
        return [score.float() for score in scores], [distance.float() for distance in distances]

    def loss(self, records: Sequence[dict[str, Any]]) -> Tensor:
        """Return the sum of mmdet's losses."""
        truth = [_instances(record["instances"], ignored=False) for record in records]
        ignored = [_instances(record["instances"], ignored=True) for record in records]
        losses = self.head.loss_by_feat(*self(records), truth, _metas(records), ignored)
        return sum(sum(parts) for parts in losses.values())

    def detect(self, records: Sequence[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """Return ``bboxes`` (input pixels), ``scores`` and ``labels`` of each record."""
        answers = self.head.predict_by_feat(*self(records), batch_img_metas=_metas(records), rescale=False)
        return [{name: answer[name] for name in ("bboxes", "scores", "labels")} for answer in answers]


class Specialist:
    """A detector in training, its optimizer, and the running average of its weights.

    Args:
        classes: Names of the classes.
        seed: Seed of the weights.
    """

    def __init__(self, classes: Sequence[str], *, seed: int) -> None:
        torch.manual_seed(seed)
        self.network = Detector(len(classes)).train()
        self.averaged: Detector = copy.deepcopy(self.network).eval().requires_grad_(False)
        parameters = list(self.network.parameters())
        groups = [
            {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": 0.05},
            {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        # Views of both networks' parameters and buffers, listed once.
        self._kept, self._trained = _unique(self.averaged), _unique(self.network)
        self.steps = 0

    def step(self, records: Sequence[dict[str, Any]], *, lr: float, clip: float, decay: float) -> Tensor:
        """Do one step and return the loss; the average starts quickly and slows down to ``decay``."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss = self.network.loss(records)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), clip, foreach=True)
        self.optimizer.step()
        self.steps += 1
        self._average(min(decay, (1 + self.steps) / (10 + self.steps)))
        return loss.detach()

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        torch._foreach_lerp_(self._kept, self._trained, 1 - decay)


def _unique(network: nn.Module) -> list[Tensor]:
    """Return parameters and floating-point buffers, each once: the levels of the head share convolutions."""
    tensors = [*network.parameters(), *(buffer for buffer in network.buffers() if buffer.is_floating_point())]
    return [tensor.detach() for tensor in tensors]


def _head_parts() -> dict[str, dict[str, Any]]:
    return {
        "anchor_generator": {"type": "MlvlPointGenerator", "offset": 0, "strides": _STRIDES},
        "bbox_coder": {"type": "DistancePointBBoxCoder"},
        "loss_cls": {"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0, "loss_weight": 1.0},
        "loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0},
        "train_cfg": _config(
            assigner={"type": "DynamicSoftLabelAssigner", "topk": 13}, allowed_border=-1, pos_weight=-1, debug=False
        ),
        "test_cfg": _config(
            nms_pre=30000,
            min_bbox_size=0,
            score_thr=0.001,
            nms={"type": "nms", "iou_threshold": 0.65},
            max_per_img=100,
        ),
    }


def _config(**values: Any) -> Any:
    from mmengine.config import ConfigDict

    return ConfigDict(values)


def _instances(instances: dict[str, Any], *, ignored: bool) -> InstanceData:
    chosen = torch.from_numpy(instances["is_ignored"]) == ignored
    return InstanceData(bboxes=instances["bboxes"][chosen], labels=torch.from_numpy(instances["labels"])[chosen])


def _metas(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    shapes = [record["image"].shape[:2] for record in records]
    return [{"img_shape": shape, "pad_shape": shape} for shape in shapes]
