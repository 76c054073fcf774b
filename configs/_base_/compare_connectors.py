"""The connectors of the comparison, see docs/comparison.md. All start from scratch."""

from lumen.lmm.connectors import LinearConnector, PoolConnector, QueryConnector

_linear = dict(type=LinearConnector)
_pool = dict(type=PoolConnector, out_hw=(5, 5))
_query = dict(
    type=QueryConnector,
    num_queries=25,
    width=96,
    num_layers=4,
    num_heads=4,
    initializer_range=0.1,  # 96 ** -0.5: at 0.02, that of a width of 768, queries stay alike for long
)
