"""Loggers of a run: TensorBoard, CSV, Weights & Biases, MLflow, or any other of Lightning's."""
