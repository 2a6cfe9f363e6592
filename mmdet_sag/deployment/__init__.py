"""Export of whole models, and the runtime that they run in without PyTorch."""
