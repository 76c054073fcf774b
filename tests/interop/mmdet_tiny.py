"""A tiny detector of mmdet with random weights, as a config and a checkpoint on disk."""

import torch

CLASSES = ("person", "star", "ring")

CONFIG = """
norm = dict(type='BN')
model = dict(
    type='RTMDet',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395],
                           bgr_to_rgb=False),
    backbone=dict(type='CSPNeXt', arch='P5', deepen_factor=0.167, widen_factor=0.0625, norm_cfg=norm,
                  act_cfg=dict(type='SiLU'), init_cfg=dict(type='Pretrained', checkpoint='https://none.invalid/x.pth')),
    neck=dict(type='CSPNeXtPAFPN', in_channels=[16, 32, 64], out_channels=16, num_csp_blocks=1, norm_cfg=norm,
              act_cfg=dict(type='SiLU')),
    bbox_head=dict(
        type='RTMDetSepBNHead', num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1, with_objectness=False,
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0), loss_bbox=dict(type='GIoULoss'),
        norm_cfg=norm, act_cfg=dict(type='SiLU')),
    test_cfg=dict(nms_pre=99, min_bbox_size=0, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.65), max_per_img=20))
test_dataloader = dict(dataset=dict(type='CocoDataset', pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='Pad', size=(64, 64), pad_val=dict(img=(114, 114, 114))),
    dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape', 'img_shape', 'scale_factor'))]))
"""


def make_tiny_detector(folder, meta=None):
    """Write ``detector.py`` and ``detector.pth``, and return both paths."""
    from mmdet.registry import MODELS
    from mmengine import Config
    from mmengine.registry import DefaultScope

    (folder / "detector.py").write_text(CONFIG)
    settings = Config.fromfile(folder / "detector.py").model
    del settings.backbone.init_cfg
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(settings)
    meta = {"dataset_meta": {"classes": CLASSES}} if meta is None else meta
    torch.save({"meta": meta, "state_dict": model.state_dict()}, folder / "detector.pth")
    return folder / "detector.py", folder / "detector.pth"
