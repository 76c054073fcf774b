"""How the photo base is tuned: nano with EfficientNet-Lite0 and its ImageNet weights in place of a tower from scratch.

Make the base first, with ``python tools/make_nano.py --tower efficientnet-lite0 --out data/photo``. It is meant for
small sets of everyday photographs.

Of the network, the stem and two stages, the depthwise kernels and the statistics of its normalisation stay as they
were trained; the rest of it is trained by AdamW at 1e-3. Everything else starts from scratch, by Muon.
"""

from lumen.engine.hooks import FreezeHook

_base_path = "data/photo"
_network = "lmm.base_model.model.vision_tower.network"
_groups = dict(muon=True, adamw=[f"{_network}.*"], lr_mult={f"{_network}.*": 1 / 3})  # of 3e-3
_freeze = dict(
    type=FreezeHook,
    freeze=[
        f"{_network}.stem.*",
        f"{_network}.stages.0.*",
        f"{_network}.stages.1.*",
        f"{_network}.*.depthwise.conv.weight",
    ],
    statistics=[_network],
)
