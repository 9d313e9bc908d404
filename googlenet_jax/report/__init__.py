"""What people look at: the pictures and TensorBoard events of a run, and the page about runs.

Every run writes:
  curves: curves.png, with loss, accuracy and learning rate by epoch.
  tensorboard: The scalars of metrics.jsonl as TensorBoard events.
  loggers: The same in Weights & Biases, MLflow or Trackio.

`train.report` writes a page about one or more runs:
  runs: Reads the runs, groups them by config and ranks the groups.
  diagnostics: Evaluates the best checkpoint: confusion matrix, calibration, mistakes.
  published: The published CIFAR-10 results that runs are compared with.
  style: The colours of the page and its figures.
  figures: Draws the figures.
  page: Puts it all into page.html.jinja.
"""

PAGE = "index.html"
"""The file of the page about runs."""
