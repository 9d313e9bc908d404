"""How a run is divided into steps and epochs."""

import dataclasses
from typing import Self

import optax

from googlenet_jax.config import Config, OptimizerConfig
from googlenet_jax.errors import ConfigError
from googlenet_jax.training.optimizer import create_schedule


@dataclasses.dataclass(frozen=True)
class Plan:
    """The length of a run and its learning rates.

    Attributes:
      steps_per_epoch: Whole batches of the training split.
      total_steps: Steps of the run.
      optimizer: The settings that the schedule follows from.
    """

    steps_per_epoch: int
    total_steps: int
    optimizer: OptimizerConfig

    @classmethod
    def of(cls, config: Config, num_examples: int) -> Self:
        """The plan of a run on `num_examples` training images.

        Raises:
          ConfigError: They do not fill one batch.
        """
        steps_per_epoch = num_examples // config.train.batch_size
        if not steps_per_epoch:
            raise ConfigError(
                f"train.batch_size={config.train.batch_size}: there are {num_examples} images to "
                f"train on; choose at most {num_examples}"
            )
        total_steps = config.train.steps or config.train.epochs * steps_per_epoch
        return cls(steps_per_epoch, total_steps, config.optimizer)

    @property
    def epochs(self) -> int:
        """Epochs of the run; the last one may end early."""
        return -(-self.total_steps // self.steps_per_epoch)

    @property
    def schedule(self) -> optax.Schedule:
        """The learning rate by step."""
        return create_schedule(self.optimizer, self.steps_per_epoch, self.total_steps)

    def epoch_end(self, epoch: int) -> int:
        """The number of steps taken when an epoch, counted from 0, is over."""
        return min((epoch + 1) * self.steps_per_epoch, self.total_steps)
