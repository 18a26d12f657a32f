"""One file a table. ORDER is the paper's; a table that is not in it is listed after."""

ORDER = ("stop_gradient", "predictor")
