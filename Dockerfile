# The project on a machine with NVIDIA GPUs: docker run --gpus all IMAGE --config digits
#
# JAX's CUDA wheels bring the CUDA libraries along; the host gives the driver.
FROM python:3.12-slim
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY googlenet_jax googlenet_jax
COPY train train
COPY configs configs
RUN pip install --no-cache-dir '.[cuda]'
# Not in a shell of its own: SIGTERM goes to the program, which saves.
ENTRYPOINT ["googlenet-jax", "train"]
