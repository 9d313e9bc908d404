"""From batches to trained weights: state, step, optimizer, loss, metrics, feeds."""
