"""Where and in which precision a predictor computes, for one thread at a time."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, UInt8
from mmengine.structures import InstanceData
from torch import Tensor

from lumen.errors import ConfigError
from lumen.lmm.conversation import Turn
from lumen.lmm.encoded import EncodedImages
from lumen.lmm.readout import Pairs
from lumen.lmm.split import split_images
from lumen.model import Lumen
from lumen.structures import PerceptionSample, Prompt, SharedRepresentation

DTYPES = (torch.float32, torch.bfloat16)


def choose_device(device: torch.device | str | None, dtype: torch.dtype | None) -> tuple[torch.device, torch.dtype]:
    """Return device and precision: the first GPU where there is one, and bfloat16 on a GPU, where they are left out."""
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return device, dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)


@contextmanager
def inference_context(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Compute without gradients; in bfloat16 by autocast if asked, so that scores and boxes stay float32."""
    is_bfloat16 = dtype == torch.bfloat16
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=is_bfloat16):
        yield


def require_batch(batch_size: int) -> None:
    """Raise ConfigError unless a batch holds at least one image."""
    if type(batch_size) is not int or batch_size < 1:
        raise ConfigError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")


class SharedModel:
    """A model that several threads may ask: each call has it for itself.

    The LMM keeps counters and the layout of its last prefix, so that two calls at once would mix them up. A call
    computes on all of its images and prompts; threads take turns between calls.

    Args:
        model: Put in evaluation mode and moved to ``device``.
        device: Where to compute.
        dtype: ``torch.float32``, or ``torch.bfloat16`` for autocast.
    """

    def __init__(self, model: Lumen, *, device: torch.device, dtype: torch.dtype) -> None:
        self.model = model.to(device).eval()
        self.device = device
        self.dtype = dtype
        self._lock = threading.RLock()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock, inference_context(self.device, self.dtype):
            # Dropout and the statistics of batches would change the answers without an error, and these the model.
            if self.model.training:
                raise ConfigError("the model is in training mode: call model.eval() before it is asked")
            yield

    def encode(self, pixels: UInt8[Tensor, "images 3 height width"], *, cache_prefix: bool = False) -> EncodedImages:
        """Run the vision tower; see ``HFAdapter.encode_images``."""
        with self._alone():
            return self.model.lmm.encode_images(pixels.to(self.device), cache_prefix=cache_prefix)

    def split(self, encoded: EncodedImages) -> list[EncodedImages]:
        """Return each image on its own; see ``split_images``."""
        with self._alone():
            return split_images(encoded)

    def decode(
        self,
        encoded: EncodedImages,
        samples: Sequence[PerceptionSample],
        task: str,
        *,
        pairs: Pairs | None = None,
    ) -> list[InstanceData]:
        """Return what the task's decoder answers to each sample, on the CPU; ``pairs`` as in ``HFAdapter.ask``."""
        with self._alone():
            samples = self.model.predict(self.share(encoded, samples, pairs), samples, task=task)
            return [sample.pred_instances.cpu() for sample in samples]

    def write_turn(self, encoded: EncodedImages, prompt: Prompt) -> Turn:
        """Answer a turn of a conversation; see ``HFAdapter.write_turn``."""
        with self._alone():
            return self.model.lmm.write_turn(encoded, prompt)

    def heat(self, encoded: EncodedImages, sample: PerceptionSample) -> Float[Tensor, "pairs 1 height width"]:
        """Return heatmaps times presence on the grid of the model, on the CPU."""
        with self._alone():
            shared = self.share(encoded, [sample])
            heat = shared.heat_logits.float().sigmoid() * shared.presence_logits.float().sigmoid()[:, None, None, None]
            return heat.cpu()

    def share(
        self, encoded: EncodedImages, samples: Sequence[PerceptionSample], pairs: Pairs | None = None
    ) -> SharedRepresentation:
        """Return the shared representation of all prompts of the samples; called with the lock held."""
        prompts = [sample.prompts for sample in samples]
        features = self.model.lmm.ask(encoded, prompts, extras=self.model.extras, predicting=True, pairs=pairs)
        return self.model.align(self.model.add_images(features, encoded.images, samples))
