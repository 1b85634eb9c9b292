"""A MindSpore Model that trains with FedProx's loss term; everything else about it is MindSpore's.

The term needs the job's weights, which FederatedLearningManager puts into the network: make
the manager first.  Loops without MindSpore add fl_cluster.worker.proximal to their loss.
"""

from __future__ import annotations

import importlib
from typing import Any

from fl_cluster.program.context import FEDPROX, SERVER_MODE_CLOUD, SUPPORT_AGG_TYPES, fl_context
from fl_cluster.program.mindspore_parts import require
from fl_cluster.worker.parameters import REFERENCE_PREFIX


class HFLModel:
    """`HFLModel(network, loss_fn, optimizer, ...)` makes a MindSpore Model for a worker.

    RuntimeError: MindSpore is not installed.  ValueError: the configured aggregation type is
    none that a cross-silo worker has.
    """

    def __new__(
        cls,
        network: Any,
        loss_fn: Any = None,
        optimizer: Any = None,
        metrics: Any = None,
        eval_network: Any = None,
        eval_indexes: Any = None,
        amp_level: str = "O0",
        boost_level: str = "O0",
        **kwargs: Any,
    ) -> Any:
        """The Model; with FedProx its loss has the term."""
        mindspore = require("HFLModel")
        context = fl_context()
        method = context.aggregation_type()
        if context.server_mode() == SERVER_MODE_CLOUD:
            if method not in SUPPORT_AGG_TYPES:
                raise ValueError(
                    f"aggregation_type must be in {SUPPORT_AGG_TYPES}, but got {method}."
                )
            if method == FEDPROX and loss_fn is not None:
                network = WithFedProxLossCell(network, loss_fn, context.iid_rate())
                loss_fn = None
        return mindspore.Model(
            network,
            loss_fn,
            optimizer,
            metrics,
            eval_network,
            eval_indexes,
            amp_level,
            boost_level,
            **kwargs,
        )


class WithFedProxLossCell:
    """A MindSpore cell: the loss of `backbone` plus (iid_rate / 2) * mean((w - w_global)^2).

    RuntimeError: MindSpore is not installed.
    """

    def __new__(cls, backbone: Any, loss_fn: Any, iid_rate: float) -> Any:
        """The cell; its class is made here, because its base is MindSpore's."""
        require("WithFedProxLossCell")
        nn = importlib.import_module("mindspore.nn")
        operations = importlib.import_module("mindspore.ops")
        every = {item.name: item for item in backbone.get_parameters()}
        pairs = [
            (every[name.partition(".")[2]], item)
            for name, item in every.items()
            if name.startswith(f"{REFERENCE_PREFIX}.") and name.partition(".")[2] in every
        ]

        def construct(self: Any, data: Any, label: Any) -> Any:
            loss = self.loss_fn(self.backbone(data), label)
            mean = operations.ReduceMean()
            for local, reference in pairs:
                loss = loss + iid_rate / 2 * mean((local - reference) ** 2)
            return loss

        def init(self: Any) -> None:
            nn.Cell.__init__(self, auto_prefix=False)
            self.backbone, self.loss_fn = backbone, loss_fn

        made = type(cls.__name__, (nn.Cell,), {"__init__": init, "construct": construct})
        return made()
