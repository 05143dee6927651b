"""What runs on a CUDA device alone: recordings of tiles, and fused kernels."""
