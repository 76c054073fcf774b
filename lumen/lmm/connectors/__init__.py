"""Connectors: how the states of a vision tower become the image tokens of an LLM.

An adapter puts one in place of the projector of a LLaVA: ``base=dict(connector=dict(type=PoolConnector, out_hw=...))``.
"""

from lumen.lmm.connectors.base import Connector
from lumen.lmm.connectors.cells import LinearConnector, MlpConnector, PoolConnector
from lumen.lmm.connectors.objects import ObjectConnector
from lumen.lmm.connectors.queries import QueryConnector

__all__ = ["Connector", "LinearConnector", "MlpConnector", "ObjectConnector", "PoolConnector", "QueryConnector"]
