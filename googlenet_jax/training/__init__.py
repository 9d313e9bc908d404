"""Training: from batches to trained weights.

- `plan`: steps and epochs of a run; `optimizer`: learning-rate schedules and update rules
- `state`: what training changes; `step`: one step of training or evaluation; `loss`; `metrics`
- `feeds`: brings the images of a data set into the compiled steps
- `health`: warnings about a network that does not learn
"""
