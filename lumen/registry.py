"""Registries: children of MMEngine's with scope ``lumen``, and ``DECODERS``, which stands alone.

MMEngine allows one child per parent and scope, so adapters, connectors and aligners share ``MODELS``. Every kind of
node that a runner touches has a child here; without one MMEngine warns that it cannot search the scope.
"""

from mmengine import registry as _mmengine
from mmengine.registry import Registry

_SCOPE = "lumen"


def _child(kind: str, parent: str, *locations: str) -> Registry:
    """Make the ``lumen`` child of one MMEngine registry; ``locations`` are imported when a name is looked up."""
    return Registry(kind, parent=getattr(_mmengine, parent), scope=_SCOPE, locations=list(locations))


MODELS = _child(
    "model",
    "MODELS",
    "lumen.model",
    "lumen.pretraining",
    "lumen.aligners.dense",
    "lumen.aligners.none",
    "lumen.aligners.slots",
    "lumen.lmm.adapter",
    "lumen.lmm.cached",
    "lumen.lmm.sam",
    "lumen.lmm.sam_prompted",
    "lumen.lmm.connectors",
)
DATASETS = _child(
    "dataset",
    "DATASETS",
    *(
        f"lumen.data.{module}"
        for module in ("attributes", "cached", "coco", "keypoints", "mixture", "refer", "semantic", "text")
    ),
    "lumen.interop.mmdet.dataset",
)
TRANSFORMS = _child(
    "transform",
    "TRANSFORMS",
    *(
        f"lumen.data.{module}"
        for module in (
            *("cells", "clips", "false_sentences", "keypoint_transforms", "refer", "shapes.asking", "text"),
            *("transforms", "written"),
        )
    ),
)
DATA_SAMPLERS = _child("data sampler", "DATA_SAMPLERS", "lumen.data.mixture")
METRICS = _child(
    "metric",
    "METRICS",
    *(
        f"lumen.metrics.{module}"
        for module in (
            *("calibration", "coco.metric", "counting", "objects", "pose", "refer", "refer_answers", "semantic"),
            "text",
        )
    ),
    "lumen.interop.mmdet.metric",
)
HOOKS = _child("hook", "HOOKS", "lumen.engine.hooks", "lumen.engine.hooks.visual")
OPTIM_WRAPPERS = _child("optimizer wrapper", "OPTIM_WRAPPERS", "lumen.engine.optim")
OPTIM_WRAPPER_CONSTRUCTORS = _child("optimizer wrapper constructor", "OPTIM_WRAPPER_CONSTRUCTORS", "lumen.engine.optim")
OPTIMIZERS = _child("optimizer", "OPTIMIZERS")
PARAM_SCHEDULERS = _child("parameter scheduler", "PARAM_SCHEDULERS")
LOOPS = _child("loop", "LOOPS", "lumen.engine.runner")
RUNNERS = _child("runner", "RUNNERS", "lumen.engine.runner")
EVALUATOR = _child("evaluator", "EVALUATOR")
FUNCTIONS = _child("function", "FUNCTIONS")
LOG_PROCESSORS = _child("log processor", "LOG_PROCESSORS")
VISUALIZERS = _child("visualizer", "VISUALIZERS")
VISBACKENDS = _child("visualizer backend", "VISBACKENDS")
MODEL_WRAPPERS = _child("model wrapper", "MODEL_WRAPPERS", "lumen.engine.ddp", "lumen.engine.fsdp")
WEIGHT_INITIALIZERS = _child("weight initializer", "WEIGHT_INITIALIZERS")
TASK_UTILS = _child("task util", "TASK_UTILS")
RUNNER_CONSTRUCTORS = _child("runner constructor", "RUNNER_CONSTRUCTORS")

_DECODERS = (
    "counting",
    "detection",
    "detection_paper",
    "grounding",
    "object_choice",
    "pose",
    "referring_segmentation",
    "sam_segmentation",
    "segmentation",
    "semantic_segmentation",
    "slot_box",
    "slot_mask",
    "text",
    "text_box",
)
DECODERS = Registry("decoder", scope=_SCOPE, locations=[f"lumen.decoders.{name}" for name in _DECODERS])
"""Task decoders. Stands alone: a decoder needs no other registry and no other registry needs it."""
