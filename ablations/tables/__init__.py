"""One file a table. ORDER is the paper's; a table that is not in it is listed after."""

ORDER = (
    "stop_gradient",
    "predictor",
    "batch_size",
    "batch_norm",
    "similarity",
    "symmetrization",
    "output_dim",
    "epochs",
    "alternation",
    "expectation",
    "methods",
    "relations",
    "cifar_methods",
    "augmentation",
    "depth",
    "bn_group",
)
