"""SimSiam (Chen & He, arXiv 2011.10566) in plain PyTorch, with every part the paper ablates as a switch."""

__version__ = "0.1.0"
